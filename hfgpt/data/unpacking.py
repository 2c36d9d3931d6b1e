"""Files as streams of bytes and of text: .gz and .zst unpacked, encodings told by byte order mark, damage named by
file and byte. Holds one block at a time."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hfgpt.errors import UserError

PACKINGS = (".gz", ".zst")
BLOCK_BYTES = 1 << 18
PACKED_BLOCK_BYTES = 1 << 10  # unpacked at once by zstandard, which gives all of it, up to 32,000 times as much
BYTE_ORDER_MARKS = (  # UTF-32's little-endian mark begins with UTF-16's: it comes first
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def byte_blocks(path: Path) -> Iterator[bytes]:
    """The file's bytes, unpacked where its name ends in .gz or .zst. Raises UserError for a file that cannot be
    opened, or that is damaged or cut off inside its packing."""
    suffix = path.suffix.lower()
    try:
        with path.open("rb") as file:
            if suffix == ".gz":
                with gzip.open(file) as unpacked:
                    yield from iter(lambda: unpacked.read(BLOCK_BYTES), b"")
            elif suffix == ".zst":
                yield from _zstandard_blocks(file, path)
            else:
                yield from iter(lambda: file.read(BLOCK_BYTES), b"")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: the gzip file is damaged or cut off ({error}); fetch it again.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def _zstandard_blocks(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """Unpacks frame by frame: zstandard's own stream reader ends without a word where a file is cut off."""
    import zstandard

    # zstd --long writes windows up to 2^31 bytes.
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    frame = None
    unpacked, size = [], 0
    try:
        for packed in iter(lambda: file.read(PACKED_BLOCK_BYTES), b""):
            while packed:
                frame = frame or decompressor.decompressobj()
                unpacked.append(frame.decompress(packed))
                size += len(unpacked[-1])
                packed = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
            if size >= BLOCK_BYTES:
                yield b"".join(unpacked)
                unpacked, size = [], 0
    except zstandard.ZstdError as error:
        raise UserError(f"{path}: the zstandard file is damaged ({error}); fetch it again.") from error
    if frame is not None:
        raise UserError(f"{path}: the zstandard file is cut off in the middle of a frame; fetch it again.")
    if size:
        yield b"".join(unpacked)


def text_blocks(path: Path) -> Iterator[str]:
    """The file's text: UTF-8, or UTF-16/32 where a byte order mark says so; the mark is left out. No character is
    ever replaced: undecodable bytes and NUL characters raise UserError with the byte offset (in the unpacked file).
    """
    decoder, encoding, offset = None, "utf-8", 0
    for block in _with_sentinel(byte_blocks(path)):
        data = block or b""
        if decoder is None:
            mark, encoding = next(((m, name) for m, name in BYTE_ORDER_MARKS if data.startswith(m)), (b"", "utf-8"))
            decoder = codecs.getincrementaldecoder(encoding)()
            data, offset = data[len(mark) :], len(mark)
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=block is None)
        except UnicodeDecodeError as error:
            at, byte = offset - pending + error.start, error.object[error.start]
            if encoding == "utf-8" and b"\0" in error.object:
                raise UserError(_binary(path)) from error
            raise UserError(
                f"{path} is not valid {encoding.upper()}: byte 0x{byte:02x} at offset {at} ({error.reason}); "
                "convert the file to UTF-8."
            ) from error
        if "\0" in text:
            raise UserError(_binary(path))
        offset += len(data)
        if text:
            yield text


def _binary(path: Path) -> str:
    return f"{path} holds NUL bytes, so it is binary data and not text; leave it out of data.data_path."


def _with_sentinel(blocks: Iterator[bytes]) -> Iterator[bytes | None]:
    yield from blocks
    yield None


def text_lines(path: Path) -> Iterator[str]:
    """The file's lines without their newlines; only `\\n` ends a line."""
    return lines_of(text_blocks(path))


def lines_of(blocks: Iterator[str]) -> Iterator[str]:
    """Cuts text blocks into lines, without their newlines; a newline at the very end opens no further line."""
    rest: list[str] = []
    for block in blocks:
        first, *lines = block.split("\n")
        rest.append(first)
        if lines:
            yield "".join(rest)
            yield from lines[:-1]
            rest = [lines[-1]]
    if last := "".join(rest):
        yield last
