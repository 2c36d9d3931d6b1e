"""Bytes and text of packed, damaged and oddly encoded files."""

import codecs
import gzip
import struct
import tracemalloc

import pytest
import zstandard

from hfgpt.data import unpacking
from hfgpt.data.unpacking import byte_blocks, lines_of, text_blocks
from hfgpt.errors import UserError

TEXT = "Grüße, naïve 世界 🌍!\nsecond line\n" * 20_000


def pack(data: bytes, packing: str) -> bytes:
    return {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress, "": bytes}[packing](data)


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_packed_files_give_the_bytes_that_went_in(tmp_path, packing):
    path = tmp_path / f"a.txt{packing}"
    path.write_bytes(pack(TEXT.encode(), packing))
    assert b"".join(byte_blocks(path)) == TEXT.encode()


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_several_frames_in_one_file_are_read_one_after_the_other(tmp_path, packing):
    path = tmp_path / f"a.txt{packing}"
    skippable = struct.pack("<II", 0x184D2A50, 4) + b"note" if packing == ".zst" else b""
    path.write_bytes(skippable + pack(b"one ", packing) + pack(b"", packing) + pack(b"two", packing))
    assert b"".join(byte_blocks(path)) == b"one two"


def test_a_zstandard_file_with_a_long_window_is_read(tmp_path):
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    path = tmp_path / "a.txt.zst"
    with path.open("wb") as file, zstandard.ZstdCompressor(compression_params=parameters).stream_writer(file) as out:
        out.write(TEXT.encode())
    with pytest.raises(zstandard.ZstdError, match="memory"):  # zstandard's default window is too small for it
        zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
    assert b"".join(byte_blocks(path)) == TEXT.encode()


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99, 1.0])
def test_a_packed_file_cut_off_anywhere_is_an_error_that_names_it(tmp_path, packing, kept):
    whole = pack(TEXT.encode(), packing)
    path = tmp_path / f"a.txt{packing}"
    path.write_bytes(whole[: min(int(kept * len(whole)), len(whole) - 1)])
    with pytest.raises(UserError, match=f"a.txt{packing}: .*cut off"):
        list(byte_blocks(path))


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_file_that_only_claims_to_be_packed_is_an_error_that_names_it(tmp_path, packing):
    path = tmp_path / f"a.txt{packing}"
    path.write_bytes(b"plain text under a packed name")
    with pytest.raises(UserError, match=f"a.txt{packing}: .*damaged"):
        list(byte_blocks(path))


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_byte_order_marks_say_the_encoding_and_are_left_out(tmp_path, monkeypatch, mark, encoding):
    monkeypatch.setattr(unpacking, "BLOCK_BYTES", 1001)  # characters fall across blocks
    path = tmp_path / "a.txt"
    path.write_bytes(mark + TEXT[:5000].encode(encoding))
    assert "".join(text_blocks(path)) == TEXT[:5000]


@pytest.mark.parametrize("block_bytes", [1 << 18, 7])
@pytest.mark.parametrize(("mark", "offset"), [(b"", 20_005), (codecs.BOM_UTF8, 20_008)])
def test_broken_utf8_names_file_and_byte(tmp_path, monkeypatch, block_bytes, mark, offset):
    monkeypatch.setattr(unpacking, "BLOCK_BYTES", block_bytes)
    path = tmp_path / "latin.txt"
    path.write_bytes(mark + b"x" * 20_000 + "äö".encode() + b"a\xe9t\xe9")
    with pytest.raises(UserError, match=f"latin.txt is not valid UTF-8: byte 0xe9 at offset {offset}"):
        list(text_blocks(path))


def test_a_character_cut_off_by_the_end_of_the_file_is_named(tmp_path):
    path = tmp_path / "cut.txt"
    path.write_bytes("abc🌍".encode()[:-1])
    with pytest.raises(UserError, match="cut.txt .*offset 3"):
        list(text_blocks(path))


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"text and then\0a NUL", bytes(range(256)) * 9])
def test_binary_data_is_refused_in_one_sentence(tmp_path, data):
    path = tmp_path / "junk.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match="junk.txt holds NUL bytes"):
        list(text_blocks(path))


def test_only_a_newline_ends_a_line():
    blocks = ["a\u2028b\x0bc", "\x85d\ne", "", "\n\nf\rg", "\n"]
    assert list(lines_of(iter(blocks))) == ["a\u2028b\x0bc\x85d", "e", "", "f\rg"]


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="gone.txt cannot be read: No such file"):
        list(byte_blocks(tmp_path / "gone.txt"))


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_data_that_packs_a_thousandfold_is_unpacked_piece_by_piece(tmp_path, packing):
    path = tmp_path / f"a.txt{packing}"
    path.write_bytes(pack(b"same line\n" * 20_000_000, packing))
    tracemalloc.start()
    assert sum(map(len, byte_blocks(path))) == 200_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size < 1_000_000 and peak < 40_000_000
