"""The wheel and the source distribution: what they hold, and that they work where the repository is not."""

import json
import sysconfig
import tarfile
import zipfile
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
SMALL_RUN = (
    *("--max_steps", "2", "--total_batch_size", "512", "--per_device_train_batch_size", "2", "--hidden_size", "128"),
    *("--tinyworld_documents", "300", "--validation_fraction", "0.05", "--vocab_size", "400"),
    *("--eval_tasks", "[tinyworld_facts]", "--eval_tasks_limit", "4"),
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


def test_the_installed_wheel_trains_and_evaluates_in_an_empty_folder(elsewhere):
    run_there, empty = elsewhere
    run_there("hfgpt", "pretrain", "tiny", *SMALL_RUN)
    folder = empty / "runs" / "tiny" / "pretrain"
    assert (folder / "model.safetensors").is_file() and (folder / "modeling_gpt.py").is_file()
    assert read_records(folder / "evals.jsonl")[-1]["results"]["tinyworld_facts"]["acc"] >= 0
    assert read_records(folder / "metrics.jsonl")[-1]["step"] == 2
