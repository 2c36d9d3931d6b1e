"""What no line of the program may do: hand text to a shell, evaluate text as code, unpickle what a file says, or make
files that anyone may write."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import REPOSITORY

SOURCES = sorted(path for folder in ("hfgpt", "benchmarks") for path in (REPOSITORY / folder).rglob("*.py"))
FORBIDDEN = {
    "eval": "evaluates text as code; hfgpt/chat/calculator.py shows what an expression may be",
    "exec": "runs text as code",
    "compile": "makes code of text",
    "os.system": "hands text to a shell",
    "os.popen": "hands text to a shell",
    "subprocess.getoutput": "hands text to a shell",
    "subprocess.getstatusoutput": "hands text to a shell",
    "pickle.load": "runs what a file says",
    "pickle.loads": "runs what a file says",
    "pickle.Unpickler": "runs what a file says",
    "marshal.load": "runs what a file says",
    "shelve.open": "runs what a file says",
    "joblib.load": "runs what a file says",
    "yaml.unsafe_load": "runs what a file says",
    "yaml.full_load": "may run what a file says",
    "tempfile.mktemp": "leaves a moment in which others make the file",
    "os.umask": "changes who may write what is made later",
}
# Pipes between a process and the workers that it started: what comes out of them is what the program put in.
EXCEPTIONS = {
    "hfgpt/data/shard_workers.py": {"pickle.load"},
    "hfgpt/data/worker_processes.py": {"pickle.load"},
}


def called(node: ast.Call) -> str:
    """The name of what is called, with its module: `subprocess.run`, `eval`."""
    return ast.unparse(node.func)


def offences(path: Path) -> Iterator[str]:
    """What in a file is forbidden, by line."""
    name = path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else path.name
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        function, place = called(node), f"{name}:{node.lineno}"
        keywords = {word.arg: word.value for word in node.keywords}
        if function in FORBIDDEN and function not in EXCEPTIONS.get(name, set()):
            yield f"{place}: {function} {FORBIDDEN[function]}"
        if "shell" in keywords and not is_constant(keywords["shell"], False):
            yield f"{place}: {function} with shell hands text to a shell"
        if function == "torch.load" and not is_constant(keywords.get("weights_only"), True):
            yield f"{place}: torch.load without weights_only=True runs what a file says"
        if function == "yaml.load" and ast.unparse(keywords.get("Loader", node)) != "yaml.SafeLoader":
            yield f"{place}: yaml.load without SafeLoader may run what a file says"
        if keywords.get("allow_pickle") is not None and not is_constant(keywords["allow_pickle"], False):
            yield f"{place}: allow_pickle runs what a file says"
        if function.endswith("chmod") and not all(is_narrow(argument) for argument in node.args[-1:]):
            yield f"{place}: {function} may let anyone write the file"
        if function.endswith("mkdir") and "mode" in keywords and not is_narrow(keywords["mode"]):
            yield f"{place}: {function} may let anyone write the folder"


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def is_narrow(node: ast.expr) -> bool:
    """Whether the mode is a number that does not let everyone write."""
    return isinstance(node, ast.Constant) and isinstance(node.value, int) and not node.value & 0o002


def test_the_whole_program_is_read():
    assert len(SOURCES) > 180


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_no_line_does_what_none_may(path):
    assert not list(offences(path))


@pytest.mark.parametrize(
    "line",
    [
        "eval('1+1')",
        "subprocess.run('ls ' + name, shell=True)",
        "subprocess.Popen(words, shell=wanted)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "pickle.load(file)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.FullLoader)",
        "numpy.load(path, allow_pickle=True)",
        "path.chmod(0o777)",
        "os.chmod(path, mode)",
        "os.makedirs(path, mode=0o777); path.mkdir(mode=0o777)",
        "os.umask(0)",
    ],
)
def test_each_rule_sees_what_it_forbids(tmp_path, line):
    (tmp_path / "broken.py").write_text(line)
    assert list(offences(tmp_path / "broken.py"))


def test_no_file_of_the_repository_may_be_written_by_anyone():
    tracked = [path for folder in ("hfgpt", "recipes", "tests") for path in (REPOSITORY / folder).rglob("*")]
    assert not [path for path in tracked if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o002]
