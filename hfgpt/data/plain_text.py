"""Plain text files cut into documents: at file, line, blank line or literal separators, flat in memory."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hfgpt.data.unpacking import lines_of, text_blocks

WHOLE_FILE_BYTES = 64 * 1024  # separator auto: a .txt file up to this size is one document
# ... and a longer one is cut into about this many, within these sizes: enough that some can be held out, and as long
# as that allows.
CUTS_PER_FILE = 256
CUT_CHARS = (4 * 1024, 64 * 1024)

_BLANK_LINE = re.compile(r"\n[ \t]*\n")


def txt_documents(path: Path, separator: str, counts: Counter) -> Iterator[str]:
    """Documents of a plain text file; `separator` is auto, file, line, blank_line or a literal string.

    Windows newlines become `\\n`; newlines around a cut belong to the cut. auto: a file of up to 64 KiB is one
    document, a longer one is cut into about 256 pieces of 4 to 64 KiB at blank lines, or at line ends where there are
    none; the size of the file on disk decides which.
    """
    blocks = _unix_newlines(text_blocks(path))
    if separator == "line":
        documents = lines_of(blocks)
    elif separator == "blank_line":
        documents = _paragraphs(lines_of(blocks))
    elif separator == "file":
        documents = iter(["".join(blocks)])
    elif separator == "auto":
        documents = _auto_documents(blocks, cut_size(path.stat().st_size))
    else:
        documents = _split_at(blocks, separator.replace("\r\n", "\n"))
    for document in documents:
        if not document or document.isspace():
            counts["blank_documents"] += 1
        else:
            yield document


def _unix_newlines(blocks: Iterator[str]) -> Iterator[str]:
    held = ""
    for block in blocks:
        block = held + block
        held = "\r" if block.endswith("\r") else ""
        yield block.removesuffix(held).replace("\r\n", "\n")
    yield held


def _paragraphs(lines: Iterator[str]) -> Iterator[str]:
    paragraph: list[str] = []
    for line in lines:
        if line and not line.isspace():
            paragraph.append(line)
        elif paragraph:
            yield "\n".join(paragraph)
            paragraph = []
    if paragraph:
        yield "\n".join(paragraph)


def _split_at(blocks: Iterator[str], separator: str) -> Iterator[str]:
    rest = ""
    for block in blocks:
        seen = max(0, len(rest) - len(separator) + 1)
        rest += block
        if rest.find(separator, seen) >= 0:
            *documents, rest = rest.split(separator)
            yield from (document.strip("\n") for document in documents)
    if rest.strip("\n"):
        yield rest.strip("\n")


def cut_size(file_bytes: int) -> int:
    """Characters in one document of a .txt file of this size on disk, in separator auto."""
    smallest, largest = CUT_CHARS
    return min(max(file_bytes // CUTS_PER_FILE, smallest), largest)


def _auto_documents(blocks: Iterator[str], size_of_cut: int) -> Iterator[str]:
    head: list[str] = []
    size = 0
    for block in blocks:
        head.append(block)
        size += len(block.encode("utf-8"))
        if size > WHOLE_FILE_BYTES:
            break
    text = "".join(head)
    if size <= WHOLE_FILE_BYTES:
        yield text
        return
    # A cut looks at most four targets ahead, and is made only when that much is there: where the cuts fall does not
    # depend on how the text was cut into blocks.
    start = 0
    for block in blocks:
        while len(text) - start >= 4 * size_of_cut:
            cut = _next_cut(text, start, size_of_cut)
            yield text[start:cut].strip("\n")
            start = cut
        text, start = text[start:] + block, 0
    while len(text) - start > 2 * size_of_cut:
        cut = _next_cut(text, start, size_of_cut)
        yield text[start:cut].strip("\n")
        start = cut
    yield text[start:].strip("\n")


def _next_cut(text: str, start: int, size_of_cut: int) -> int:
    """Where the document that begins at `start` ends: blank line, else line end, else space, else anywhere."""
    target, limit = start + size_of_cut, start + 4 * size_of_cut
    if blank := _BLANK_LINE.search(text, target, start + 2 * size_of_cut):
        return blank.end()
    if (newline := text.find("\n", target, limit)) >= 0:
        return newline + 1
    if (space := text.find(" ", target, limit)) >= 0:
        return space + 1
    return min(limit, len(text))
