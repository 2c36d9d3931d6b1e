"""A run's checkpoint folders on disk: the mark that makes one complete, what is wrong with the others, rotation.

A folder without a true mark is never used. Imports no torch, and reads no file of a checkpoint but its mark.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePath

COMPLETE_MARK = "COMPLETE"
STAGING = "checkpoint-being-written"
# How a checkpoint holds weights and optimizer: each in one file, or as FSDP2 or DeepSpeed write them.
WHOLE, FSDP2_FULL, FSDP2_SHARDED, ZERO = (
    "one process or DDP",
    "FSDP2, FULL_STATE_DICT",
    "FSDP2, SHARDED_STATE_DICT",
    "ZeRO",
)
FULL, WEIGHTS = "full", "weights"  # a checkpoint to go on from, and one that has kept its model alone

# What only going on needs, by the names that HF's Trainer, accelerate and DeepSpeed give it.
TRAINING_STATE = (
    *("optimizer.pt", "optimizer.bin", "optimizer_*", "scheduler.pt", "scaler.pt", "rng_state*.pth"),
    "progress.json",  # ours (exact_resume.py)
)
# Copies of the weights for resuming in shards; the only weights there are where no safetensors lie beside them.
WEIGHTS_IN_SHARDS = ("pytorch_model_fsdp*", "global_step*", "latest", "zero_to_fp32.py")


@dataclass(frozen=True)
class FileMark:
    """What a file must be: its size in bytes and its SHA-256, in hexadecimal digits."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Mark:
    """The content of COMPLETE: `kind` is full or weights, `files` says of each path in the folder what it must be."""

    kind: str
    files: dict[str, FileMark]

    @property
    def num_bytes(self) -> int:
        return sum(file.bytes for file in self.files.values())


def mark_complete(folder: Path) -> None:
    """Sync every file of `folder` to disk, then write the mark that lists their sizes and hashes."""
    files = {}
    for path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            files[str(path.relative_to(folder))] = FileMark(
                path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
            )
    for inner in (p for p in folder.rglob("*") if p.is_dir()):
        _sync_folder(inner)
    _write_mark(folder, Mark(FULL, files))


def read_mark(folder: Path) -> Mark | None:
    """The mark of a checkpoint; None where there is none, or one that does not say all that it must."""
    try:
        mark = json.loads((folder / COMPLETE_MARK).read_text(encoding="utf-8"))
        files = {name: FileMark(int(file["bytes"]), str(file["sha256"])) for name, file in mark["files"].items()}
        return Mark(mark["kind"], files) if mark["kind"] in (FULL, WEIGHTS) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def missing_pieces(folder: Path) -> list[str]:
    """What keeps a checkpoint from being complete: the mark itself, or files that are absent or of another size."""
    mark = read_mark(folder)
    if mark is None:
        return [COMPLETE_MARK]
    return [name for name, file in mark.files.items() if _size(folder / name) != file.bytes]


def altered_files(folder: Path) -> list[str]:
    """Files of a complete checkpoint whose content is not what was written, or cannot be read. Reads every byte."""
    mark = read_mark(folder)
    return [name for name, file in mark.files.items() if _sha256(folder / name) != file.sha256] if mark else []


def obstacle(folder: Path) -> str | None:
    """Why a run cannot go on from `folder`, as words after its name; None if it can. Reads every byte."""
    if missing := missing_pieces(folder):
        return f"is incomplete ({', '.join(missing)})"
    mark = read_mark(folder)
    if mark is not None and mark.kind == WEIGHTS:
        return "holds the weights alone"
    if altered := altered_files(folder):
        return f"is damaged ({', '.join(altered)})"
    return None


def written_under(folder: Path) -> str:
    """What a full checkpoint was written under, and can be gone on from under: WHOLE, FSDP2_FULL, FSDP2_SHARDED or
    ZERO."""
    if (folder / "pytorch_model_fsdp_0").is_dir():
        return FSDP2_SHARDED
    if (folder / "pytorch_model_fsdp.bin").is_file():
        return FSDP2_FULL
    return ZERO if any(folder.glob("global_step*")) else WHOLE


def checkpoint_step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def checkpoint_folders(run_folder: Path) -> list[Path]:
    """Folders of a run that are named like checkpoints, whatever is in them, oldest first."""
    named = (p for p in run_folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name) and p.is_dir())
    return sorted(named, key=checkpoint_step)


def complete_checkpoints(run_folder: Path) -> tuple[list[Path], dict[Path, list[str]]]:
    """Checkpoints to go on from by the sizes of their files, oldest first, and what incomplete ones lack."""
    lacking = {folder: missing_pieces(folder) for folder in checkpoint_folders(run_folder)}
    complete = [folder for folder, missing in lacking.items() if not missing and _kind(folder) == FULL]
    return complete, {folder: missing for folder, missing in lacking.items() if missing}


def publish(staged: Path, folder: Path) -> None:
    """Mark the checkpoint `staged` and let it appear as `folder` in one step, instead of what is there."""
    mark_complete(staged)
    if folder.exists():
        _remove(folder)
    os.replace(staged, folder)
    _sync_folder(folder.parent)


def rotate_checkpoints(newest_good: Path, total_limit: int | None, weights_limit: int | None = 0) -> None:
    """Keep the newest `total_limit` full checkpoints (all when null or 0), of the `weights_limit` before them (all
    when null) the model alone, and none of those before.

    `newest_good` is the newest that is known to be whole; the run has passed over what lies beside it with a higher
    step, which is neither counted nor touched, and nor are incomplete ones.
    """
    if not total_limit:
        return
    last = checkpoint_step(newest_good)
    known = (folder for folder in checkpoint_folders(newest_good.parent) if checkpoint_step(folder) <= last)
    whole = [folder for folder in known if not missing_pieces(folder)]
    newest = [folder for folder in whole if _kind(folder) == FULL][-total_limit:]
    older = [folder for folder in whole if folder not in newest]
    kept = older if weights_limit is None else older[max(0, len(older) - weights_limit) :]
    for folder in older:
        if folder in kept:
            drop_training_state(folder)
        else:
            _remove(folder)


def drop_training_state(folder: Path) -> None:
    """Turn a complete checkpoint into one of weights alone: the mark first, so that it is never half of one."""
    mark = read_mark(folder)
    if mark is None:
        return
    has_safetensors = any(name.endswith(".safetensors") for name in mark.files)
    dropped = TRAINING_STATE + (WEIGHTS_IN_SHARDS if has_safetensors else ())

    def is_dropped(name: str) -> bool:
        return any(fnmatch(PurePath(name).parts[0], pattern) for pattern in dropped)

    if mark.kind == FULL:
        _write_mark(folder, Mark(WEIGHTS, {name: file for name, file in mark.files.items() if not is_dropped(name)}))
    for path in folder.iterdir():
        if is_dropped(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def sync_files(folder: Path) -> None:
    """Let the files that lie in `folder` itself reach the disk, with their names."""
    for path in (path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _sync_folder(folder)


def clear_staging(run_folder: Path) -> None:
    """Remove what a killed save or removal has left."""
    shutil.rmtree(run_folder / STAGING, ignore_errors=True)


def _remove(folder: Path) -> None:
    """Out of sight in one step, so that a kill leaves no checkpoint without half of its files."""
    aside = folder.parent / STAGING / f"{folder.name}-removed"
    aside.parent.mkdir(exist_ok=True)
    os.replace(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _write_mark(folder: Path, mark: Mark) -> None:
    temporary = folder / f"{COMPLETE_MARK}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(asdict(mark), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / COMPLETE_MARK)
    _sync_folder(folder)


def _files(folder: Path) -> Iterator[Path]:
    """Every file of a checkpoint but its mark."""
    marks = {folder / COMPLETE_MARK, folder / f"{COMPLETE_MARK}.tmp"}
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path not in marks)


def _kind(folder: Path) -> str | None:
    mark = read_mark(folder)
    return mark.kind if mark else None


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # a disk that fails where it is read
        return None


def _sync_folder(folder: Path) -> None:
    """Let the names in `folder` reach the disk, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
