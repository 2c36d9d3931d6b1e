"""Local files as source shards: finds the files that `data.data_path` names and reads each by its format, as
documents or as rows."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from hfgpt.arguments import DataArguments
from hfgpt.data.documents import SourceShard
from hfgpt.data.plain_text import txt_documents
from hfgpt.data.row_formats import ROW_FORMATS, Row
from hfgpt.data.row_texts import row_texts
from hfgpt.data.unpacking import PACKINGS, byte_blocks
from hfgpt.data.url_files import is_url, local_copy
from hfgpt.errors import UserError

FORMATS_OF_SUFFIX = {  # the first is what `format: auto` takes, the others may be asked for
    ".txt": ("txt", "gutenberg"),
    ".jsonl": ("jsonl", "json"),
    ".json": ("json", "jsonl"),
    ".csv": ("csv",),
    ".parquet": ("parquet",),
}
READABLE = ", ".join(FORMATS_OF_SUFFIX) + " (also " + ", ".join(PACKINGS) + ")"
# Files below this are read together, up to this many bytes a shard: rows are packed within a shard, and ten thousand
# one-page files would not fill a row each.
SHARD_BYTES = 16 << 20


@dataclass(frozen=True)
class LocalFile:
    """One file and how to read it; `format` is never auto."""

    path: Path
    format: str
    text_column: str = "text"
    document_separator: str = "auto"

    def documents(self, counts: Counter) -> Iterator[str]:
        if next(byte_blocks(self.path), None) is None:
            counts["empty_files"] += 1
            return
        if self.format == "gutenberg":
            from hfgpt.data import gutenberg

            yield from gutenberg.book_documents(self.path, counts)
        elif self.format == "txt":
            yield from txt_documents(self.path, self.document_separator, counts)
        else:
            yield from row_texts(self.path, self.format, self.text_column, counts)

    def rows(self, counts: Counter) -> Iterator[tuple[str, Row]]:
        """The file's rows with its path. Raises UserError for plain text, which has none."""
        if self.format not in ROW_FORMATS:
            raise UserError(
                f"{self.path} is plain text, but conversations and preferences are rows: give .jsonl, .json, .csv or "
                '.parquet, as {"messages": [{"role": "user", "content": "..."}, ...]} in each line of a .jsonl file.'
            )
        if next(byte_blocks(self.path), None) is None:
            counts["empty_files"] += 1
            return
        for row in ROW_FORMATS[self.format](self.path, None):
            yield str(self.path), row

    def fingerprint(self) -> str:
        """Size and time of change, and how the file is read."""
        status = _status(self.path)
        how = (self.format, self.document_separator if self.format == "txt" else self.text_column)
        return repr((status.st_size, status.st_mtime_ns, *how))


@dataclass(frozen=True)
class FileShard(SourceShard):
    """One or several local files read one after the other."""

    files: tuple[LocalFile, ...]

    def documents(self, counts: Counter | None = None) -> Iterator[str]:
        counts = Counter() if counts is None else counts
        for file in self.files:
            yield from file.documents(counts)

    def rows(self, counts: Counter) -> Iterator[tuple[str, Row]]:
        """Every row with the path of its file; `empty_files` are counted."""
        for file in self.files:
            yield from file.rows(counts)

    def fingerprint(self) -> str:
        digest = blake2b(digest_size=16)
        for file in self.files:
            digest.update(repr((file.path.name, file.fingerprint())).encode())
        return digest.hexdigest()


def local_file(path: Path, data: DataArguments) -> LocalFile:
    """How section `data` wants this file read. Raises UserError where its name and `data.format` disagree."""
    if data.columns and "text" not in data.columns:
        raise UserError(
            f"data.columns has no key 'text' (keys there: {', '.join(data.columns)}); "
            "write {text: NAME} with the column that holds text."
        )
    if not data.document_separator:
        raise UserError("data.document_separator is empty; set auto, file, line, blank_line or a literal string.")
    formats = FORMATS_OF_SUFFIX.get(_suffix(path), ())
    if data.format == "auto" and not formats:
        raise UserError(
            f"{path} does not end in {READABLE}; set data.format to say how to read it, "
            "or leave it out of data.data_path."
        )
    if data.format != "auto" and formats and data.format not in formats:
        raise UserError(
            f"{path} ends in {_suffix(path)}, but data.format is {data.format}; "
            "set data.format: auto, or leave the file out of data.data_path."
        )
    chosen = formats[0] if data.format == "auto" else data.format
    return LocalFile(path, chosen, data.columns.get("text", "text"), data.document_separator)


def local_shards(data: DataArguments) -> list[FileShard]:
    """The files of `data.data_path` in natural order (part2 before part10), small ones joined into one shard.

    A file that several entries name is read once. Raises UserError where nothing is found or nothing can be read.
    """
    entries = [data.data_path] if isinstance(data.data_path, str) else list(data.data_path or [])
    paths = sorted({path for entry in entries for path in _files_of(entry, data)}, key=lambda p: natural_order(str(p)))
    if not paths:
        raise UserError("data.data_path is an empty list; name a file, folder or glob.")
    sizes = {path: _status(path).st_size for path in paths}
    if not any(sizes.values()):
        raise UserError(f"data.data_path: every file is empty ({len(paths)}, the first is {paths[0]}).")
    for path in paths:
        if not os.access(path, os.R_OK):
            raise UserError(f"{path} cannot be read: permission denied; change its permissions.")
    root = Path(os.path.commonpath([path.parent for path in paths]))
    names = {path: path.relative_to(root).as_posix() for path in paths}
    groups: list[list[Path]] = []
    room = 0
    for path in paths:
        if not groups or sizes[path] > room:
            groups.append([])
            room = SHARD_BYTES
        groups[-1].append(path)
        room -= sizes[path]
    return [FileShard(names[group[0]], tuple(local_file(path, data) for path in group)) for group in groups]


def natural_order(name: str) -> tuple:
    """A sort key that compares runs of digits as numbers, and the name itself where these agree."""
    pieces = re.split(r"(\d+)", name)  # text at even places, digits at odd ones
    return tuple(int(piece) if place % 2 else piece for place, piece in enumerate(pieces)), name


def _files_of(entry: str, data: DataArguments) -> list[Path]:
    """The files that one entry of `data.data_path` names; a file named outright must be readable by its format."""
    if is_url(entry):
        return [local_copy(entry)]
    if not entry.strip():
        raise UserError("data.data_path has an empty entry; name a file, folder or glob.")
    if "://" in entry:
        raise UserError(f"data.data_path: {entry} cannot be fetched; addresses begin with http:// or https://.")
    path = Path(os.path.abspath(os.path.expanduser(entry)))
    if path.is_file():
        return [path]
    if path.is_dir():
        found = _walk(path, data)
        if not found:
            raise UserError(f"data.data_path: folder {path} holds no file that ends in {_wanted(data)}.")
        return found
    if path.exists():
        raise UserError(f"data.data_path: {path} is neither a file nor a folder.")
    if not glob.has_magic(entry):
        raise UserError(f"data.data_path: there is no file or folder {path}.")
    matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
    # A format that is asked for also reads names that say nothing, as in docs/*.md with format: txt.
    found = [match for match in matches if match.is_file() and _may_be_read(match, data)]
    found += [file for match in matches if match.is_dir() for file in _walk(match, data)]
    if not found:
        why = f"none of its {len(matches)} matches ends in {_wanted(data)}" if matches else "nothing matches it"
        raise UserError(f"data.data_path: {entry}: {why}.")
    return found


def _walk(folder: Path, data: DataArguments) -> list[Path]:
    """Readable files below a folder; hidden files and folders are left out, linked folders are followed once."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}.") from error

    found: list[Path] = []
    visited: set[str] = set()
    for where, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        if (real := os.path.realpath(where)) in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(where, name) for name in files if not name.startswith(".") and _suffix(name) in _suffixes(data)]
        # Pipes and sockets are left out; a link that leads nowhere is kept, and named when it cannot be read.
        found += [path for path in paths if path.is_file() or not path.exists()]
    return found


def _suffixes(data: DataArguments) -> list[str]:
    return [suffix for suffix, formats in FORMATS_OF_SUFFIX.items() if data.format in ("auto", *formats)]


def _may_be_read(path: Path, data: DataArguments) -> bool:
    suffix = _suffix(path)
    return suffix in _suffixes(data) or (data.format != "auto" and suffix not in FORMATS_OF_SUFFIX)


def _wanted(data: DataArguments) -> str:
    return READABLE if data.format == "auto" else f"{' or '.join(_suffixes(data))} (data.format is {data.format})"


def _suffix(path: Path | str) -> str:
    """`.txt` of `book.txt` and of `book.TXT.gz`."""
    name = Path(path).name.lower()
    for packing in PACKINGS:
        name = name.removesuffix(packing)
    return Path(name).suffix


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
