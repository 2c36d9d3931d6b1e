"""Project Gutenberg books by number: downloaded one after the other, politely, and kept in a cache on disk."""

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from hfgpt import __version__
from hfgpt.data.gutenberg import decode_book
from hfgpt.data.local_files import FileShard, LocalFile
from hfgpt.errors import UserError

MIRROR = "https://www.gutenberg.org"
# Where a book's text lies, newest layout first; older books have only some of these.
BOOK_PATHS = ("cache/epub/{n}/pg{n}.txt", "files/{n}/{n}-0.txt", "files/{n}/{n}-8.txt", "files/{n}/{n}.txt")
ATTEMPTS = 5
TIMEOUT_SECONDS = 30.0
LONGEST_WAIT_SECONDS = 60.0


def gutenberg_book_shards(
    numbers: Sequence[int],
    *,
    mirror: str = MIRROR,
    cache_folder: Path | None = None,
    delay_seconds: float = 1.0,
    backoff_seconds: float = 1.0,
) -> list[FileShard]:
    """One shard a book, in the order of `numbers`; books that the cache lacks are downloaded now, `delay_seconds`
    apart. Raises UserError for a number without a book, and where the mirror cannot be reached after 5 attempts."""
    if not numbers:
        raise UserError("data.dataset is gutenberg, but data.gutenberg_books is empty; list the books' numbers.")
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise UserError(f"data.gutenberg_books holds {number!r}; a book's number is a whole number from 1 on.")
    folder = cache_folder or _cache_folder()
    paths = {number: folder / f"pg{number}.txt" for number in numbers}
    missing = [number for number, path in paths.items() if not path.is_file()]
    if missing:
        from tqdm.auto import tqdm

        for number in tqdm(missing, desc="Downloading Project Gutenberg books", unit="book", disable=len(missing) < 2):
            _write_whole(paths[number], _download(number, mirror.rstrip("/"), backoff_seconds))
            if number != missing[-1]:
                time.sleep(delay_seconds)
    return [FileShard(path.name, (LocalFile(path, "gutenberg"),)) for path in paths.values()]


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "hfgpt", "gutenberg")


def _write_whole(path: Path, raw: bytes) -> None:
    """Puts the file in place in one step: a process that is killed leaves no half book behind."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; free space or set XDG_CACHE_HOME.") from error
    finally:
        part.unlink(missing_ok=True)


def _download(number: int, mirror: str, backoff_seconds: float) -> bytes:
    for pattern in BOOK_PATHS:
        raw = _get(f"{mirror}/{pattern.format(n=number)}", number, backoff_seconds)
        if raw is not None:
            return raw
    raise UserError(
        f"data.gutenberg_books: {mirror} has no plain text of book {number}; check the number, "
        "for some numbers are audio books or were never given out."
    )


def _get(url: str, number: int, backoff_seconds: float) -> bytes | None:
    """The book's bytes, None where the server has no such file. Asks again when the server or the line fails."""
    request = urllib.request.Request(url, headers={"User-Agent": f"hfgpt/{__version__}"})
    failure = ""
    for attempt in range(ATTEMPTS):
        wait = backoff_seconds * 2**attempt
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                raw = response.read()
            if raw.strip() and not raw.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
                decode_book(raw)
                return raw
            failure = "the answer is a web page or empty, and no book"
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                return None
            failure = f"HTTP {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 429):
                break
            if (after := error.headers.get("Retry-After", "")).isdigit():
                wait = max(wait, float(after))
        except (http.client.HTTPException, OSError, UserError) as error:
            failure = str(error) or type(error).__name__
        if attempt + 1 < ATTEMPTS:
            time.sleep(min(wait, LONGEST_WAIT_SECONDS))
    raise UserError(
        f"Project Gutenberg book {number} could not be downloaded from {url} ({failure}); check the network and run "
        "again, which keeps the books that are here, or set data.data_path and data.format: gutenberg for local files."
    )
