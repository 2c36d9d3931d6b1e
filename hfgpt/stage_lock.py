"""One process trains in a stage's folder: a second command there is told so before it touches anything."""

from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from hfgpt.errors import UserError

LOCK_FILE = "training.lock"  # stays where it is; what counts is who holds it
LONGEST_WAIT = 10.0  # seconds: the loaders of a run that was killed hold what it held, and end within five

_held: list[BaseFileLock] = []


def hold(folder: Path) -> None:
    """Keep every other process from training in `folder`, which is made, until `let_go` or the end of this process,
    however it ends. Raises UserError where another holds it. Does nothing on a file system without locks."""
    let_go()
    folder.mkdir(parents=True, exist_ok=True)
    lock: BaseFileLock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=LONGEST_WAIT)
    except Timeout:
        raise UserError(
            f"another process trains in {folder}: wait until it has ended, stop it, or give another --output_dir."
        ) from None
    except (OSError, NotImplementedError):
        return
    if isinstance(lock, SoftFileLock):  # what filelock makes do with there outlives a process that is killed
        lock.release()
    else:
        _held.append(lock)


def let_go() -> None:
    """The stage in this process has ended, well or not."""
    while _held:
        _held.pop().release()
