"""What a refusal is: exit code 2, one sentence that names the culprit, no traceback, and nothing on disk harmed."""

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

# What a command may have made before it met what it refuses: finished work that the next run takes up.
WORK = ("tokenizer", "tokenizer.lock", "data")
SAYS_HOW_IT_BEGAN = ("pretrain/recipe.yaml", "pretrain/plan.json", "pretrain/environment.json")  # at the last start


def contents(folder: Path) -> dict[str, str]:
    """A hash of every file below `folder`, and where each link leads, by relative path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file():
            found[name] = blake2b(path.read_bytes(), digest_size=16).hexdigest()
        elif path.is_dir():
            found[name] = "folder"
    return found


def harm(before: dict[str, str], after: dict[str, str], root: str = "runs") -> list[str]:
    """What a refusal did to a folder: files that it changed or removed, and what it left behind that is no work of
    `runs/<recipe>/{tokenizer,data}`."""
    kept = [name for name in before if not name.endswith(SAYS_HOW_IT_BEGAN)]
    changed = [name for name in kept if after.get(name) != before[name]]
    return changed + [name for name in after.keys() - before.keys() if not _is_work(name.split("/"), root)]


def _is_work(parts: list[str], root: str) -> bool:
    return parts[0] == root and (len(parts) < 3 or parts[2] in WORK)


def sentence_in(stderr: str) -> str:
    """The one sentence of hfgpt's on stderr, which stands last."""
    assert "Traceback" not in stderr, stderr
    lines = [line for line in stderr.splitlines() if line.strip()]
    sentences = [line for line in lines if line.startswith("hfgpt: ")]
    assert len(sentences) == 1 and lines[-1] == sentences[0], f"not one sentence, last of all: {stderr[-2000:]!r}"
    sentence = sentences[0].removeprefix("hfgpt: ")
    assert len(sentence) < 900 and sentence[0].strip() and "<class" not in sentence, sentence
    return sentence


def names(sentence: str, culprits: Iterable[str]) -> None:
    """Asserts that the sentence names every culprit."""
    missing = [word for word in culprits if word not in sentence]
    assert not missing, f"{missing} not in: {sentence}"
