"""The wheel and the source distribution: what they hold, and that they work where the repository is not."""

import ast
import json
import re
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from commands import REPOSITORY, run, succeed

import hfgpt
from hfgpt.training.record import read_records

pytestmark = pytest.mark.slow

# What one needs to run the tests from the source distribution.
SOURCES = {
    "hfgpt",
    "recipes",
    "accelerate_configs",
    "benchmarks",
    "docs",
    "tests",
    "pyproject.toml",
    "constraints.txt",
}
SOURCES |= {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "mkdocs.yml"}
# Modules that are imported where an extra is installed.
OF_EXTRAS = {"serve_app.py", "serve_connection.py", "serve_handlers.py", "space_app.py"}
OF_EXTRAS |= {"web_chat.py", "web_compare.py", "web_gate.py", "web_page.py", "web_settings.py"}
# The tiny recipe with all its stages, two steps of each.
SMALL_WORLD = (
    *("--hidden_size", "128", "--depth", "2", "--vocab_size", "400", "--max_length", "128"),
    *("--tinyworld_documents", "300", "--tinyworld_conversations", "300", "--tinyworld_preferences", "60"),
    *("--tinyworld_prompts", "60", "--validation_fraction", "0.05"),
)
SMALL_STAGES = {
    "pretrain": {"total_batch_size": 512, "per_device_train_batch_size": 2},
    "midtrain": {"total_batch_size": 512, "per_device_train_batch_size": 2},
    "sft": {},
    "dpo": {},
    "grpo": {"per_device_train_batch_size": 8, "pass_at_prompts": 2},
}
ANY_STAGE = {"max_steps": 2, "eval_tasks": "[tinyworld_facts]", "eval_tasks_limit": 4}
SMALL_RUN = SMALL_WORLD + tuple(
    word
    for stage, keys in SMALL_STAGES.items()
    for key, value in (ANY_STAGE | keys).items()
    for word in (f"--{stage}.{key}", str(value))
)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> tuple[Path, Path]:
    """Wheel and source distribution; the wheel is built from the other, as a packager builds it."""
    folder = tmp_path_factory.mktemp("dist")
    succeed("python", "-m", "build", "--no-isolation", "--outdir", folder, REPOSITORY)
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, source


@pytest.fixture(scope="module")
def elsewhere(distributions, tmp_path_factory):
    """Run programs of an environment that has the wheel, in an empty folder: (run, the folder). What the wheel
    requires is lent from this environment, by its path alone, so that this one's hfgpt is not seen."""
    environment, empty = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("empty")
    succeed("python", "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    succeed("python", "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", distributions[0])
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run_there(program: str, *words: str) -> str:
        done = run(environment / "bin" / program, *words, folder=empty, PYTHONPATH="")
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run_there, empty


def files_of(source: str) -> set[str]:
    """A file of the repository, or those below a folder, from its root; what Python compiled is left out."""
    paths = (path for path in (REPOSITORY / source, *(REPOSITORY / source).rglob("*")) if path.is_file())
    return {path.relative_to(REPOSITORY).as_posix() for path in paths if "__pycache__" not in path.parts}


def test_the_wheel_holds_the_package_its_tasks_the_recipes_and_the_pins(distributions):
    with zipfile.ZipFile(distributions[0]) as wheel:
        held = {name: wheel.read(name) for name in wheel.namelist()}
    sources = {name: name for name in files_of("hfgpt")}
    sources |= {name.replace("recipes/", "hfgpt/_recipes/"): name for name in files_of("recipes")}
    sources |= {"hfgpt/_constraints.txt": "constraints.txt"}
    assert {name for name in held if name.startswith("hfgpt/")} == sources.keys()
    assert all(held[name] == (REPOSITORY / source).read_bytes() for name, source in sources.items())
    assert {"hfgpt/py.typed", "hfgpt/_recipes/tiny.yaml"} < held.keys()
    assert sum(name.startswith("hfgpt/evals/") and name.endswith(".yaml") for name in held) > 20
    metadata = held[f"hfgpt-{hfgpt.__version__}.dist-info/METADATA"].decode()
    assert f"\nVersion: {hfgpt.__version__}\n" in metadata and "Train your own ChatGPT" in metadata


def test_the_source_distribution_holds_what_the_tests_need(distributions):
    with tarfile.open(distributions[1]) as source:
        held = {name.partition("/")[2] for name in source.getnames()}
    needed = {name for source in SOURCES for name in files_of(source)}
    assert len(needed) > 400 and not needed - held


def test_the_installed_wheel_is_its_own_package_with_its_recipes(elsewhere):
    run_there, empty = elsewhere
    assert run_there("hfgpt", "--version").splitlines()[0] == f"hfgpt {hfgpt.__version__}"
    where = run_there("python", "-c", "import hfgpt; print(hfgpt.__file__)").strip()
    assert "site-packages" in where and not Path(where).is_relative_to(REPOSITORY)
    plan = json.loads(run_there("hfgpt", "plan", "d20", "--num_gpus", "1", "--json"))
    assert plan["parameters"]["total"] > 400_000_000
    assert not list(empty.iterdir())


def test_the_installed_wheel_runs_every_stage_of_the_tiny_recipe_and_chats_in_an_empty_folder(elsewhere):
    run_there, empty = elsewhere
    run_there("hfgpt", "run", "tiny", *SMALL_RUN)
    for stage in SMALL_STAGES:
        folder = empty / "runs" / "tiny" / stage
        assert (folder / "model.safetensors").is_file() and (folder / "modeling_gpt.py").is_file()
        scores = [record["results"] for record in read_records(folder / "evals.jsonl")]
        assert sum("tinyworld_facts" in results for results in scores) == 2  # before and after
        assert read_records(folder / "metrics.jsonl")[-1]["step"] == 2
    assert (empty / "runs" / "tiny" / "report" / "report.html").is_file()
    run_there("hfgpt", "chat", "runs/tiny", "--prompt", "Hello!", "--max_new_tokens", "4")


def test_what_the_package_imports_is_declared():
    """The environment above is lent all packages of this one, so this shows what a fresh install would lack."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    always = {_distribution(line) for line in project["dependencies"]}
    extras = {_distribution(line) for lines in project["optional-dependencies"].values() for line in lines}
    distributions_of = packages_distributions()
    missing = []
    for path in (REPOSITORY / "hfgpt").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        of_functions = {
            id(inner)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.If | ast.Try)
            for inner in ast.walk(function)
        }
        for node in ast.walk(tree):
            for name in _imported(node):
                if name in sys.stdlib_module_names or name in ("hfgpt", "nanochat"):
                    continue
                owners = {re.sub(r"[-_.]+", "-", owner).lower() for owner in distributions_of.get(name, [name])}
                is_optional = id(node) in of_functions or path.name in OF_EXTRAS
                if not owners & (always | extras if is_optional else always):
                    missing.append(f"{path}:{node.lineno} imports {name}, which pyproject.toml does not require")
    assert not missing


def _distribution(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower()


def _imported(node: ast.AST) -> list[str]:
    """The top-level packages that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module.partition(".")[0]]
    return []
