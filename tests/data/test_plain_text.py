"""Plain text files cut into documents."""

import random
import tracemalloc
from collections import Counter

import pytest

from hfgpt.data import unpacking
from hfgpt.data.plain_text import WHOLE_FILE_BYTES, cut_size, txt_documents


def documents(path, separator="auto"):
    counts = Counter()
    return list(txt_documents(path, separator, counts)), counts


def write(tmp_path, text):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode("utf-8"))
    return path


@pytest.mark.parametrize(
    ("separator", "expected", "blank"),
    [
        ("file", ["one\ntwo\n\n \nthree  \n---\nfour\n"], 0),
        ("line", ["one", "two", "three  ", "---", "four"], 2),
        ("blank_line", ["one\ntwo", "three  \n---\nfour"], 0),
        ("---", ["one\ntwo\n\n \nthree  ", "four"], 0),
        ("\r\n---\r\n", ["one\ntwo\n\n \nthree  ", "four"], 0),
        ("auto", ["one\ntwo\n\n \nthree  \n---\nfour\n"], 0),
    ],
)
def test_each_separator_cuts_where_it_says(tmp_path, separator, expected, blank):
    path = write(tmp_path, "one\r\ntwo\r\n\r\n \r\nthree  \r\n---\r\nfour\r\n")
    assert documents(path, separator) == (expected, Counter(blank_documents=blank) if blank else Counter())


def test_a_literal_separator_like_tinystories_leaves_no_trace_of_itself(tmp_path):
    stories = [f"Once upon a time {n}.\n\nThe end." for n in range(500)]
    path = write(tmp_path, "\n<|endoftext|>\n".join(stories) + "\n<|endoftext|>\n")
    assert documents(path, "<|endoftext|>")[0] == stories


def test_auto_keeps_a_file_of_64_kib_whole_and_cuts_a_longer_one(tmp_path):
    paragraph = "ä" * 49 + "\n\n"  # 100 bytes
    whole = (paragraph * 1000)[: WHOLE_FILE_BYTES * 51 // 100]
    whole = whole[: -(len(whole) % 51)]
    assert len(whole.encode()) <= WHOLE_FILE_BYTES
    assert documents(write(tmp_path, whole))[0] == [whole]
    longer = whole + "x" * (WHOLE_FILE_BYTES + 1 - len(whole.encode()))
    assert len(documents(write(tmp_path, longer))[0]) > 1


def test_auto_cuts_a_long_file_at_blank_lines_into_documents_of_like_size(tmp_path, shared_data):
    text = (shared_data / "corpora" / "tinyshakespeare.txt").read_text()
    found, _ = documents(shared_data / "corpora" / "tinyshakespeare.txt")
    assert "".join(found).replace("\n", "") == text.replace("\n", "")  # newlines around a cut belong to the cut
    assert 220 <= len(found) <= 256
    cut = cut_size(len(text.encode()))
    assert all(cut - 2 <= len(document) <= 2 * cut for document in found[:-1])


@pytest.mark.parametrize(("separator", "between"), [("\n", "line ends"), (" ", "spaces"), ("", "nothing")])
def test_auto_cuts_at_line_ends_then_spaces_then_anywhere(tmp_path, separator, between):
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdef", k=9)) for _ in range(30_000)]
    text = separator.join(words)
    found, _ = documents(write(tmp_path, text))
    cut = cut_size(len(text))
    assert len(found) >= len(text) // (4 * cut)
    assert separator.join(document.strip(" ") for document in found) == text, between
    if separator:
        assert all(cut - 1 <= len(document) <= cut + 10 for document in found[:-2])


def test_a_cut_is_a_256th_of_the_file_between_4_and_64_kib():
    assert [cut_size(size) for size in (100_000, 8 * 2**20, 10 * 2**30)] == [4096, 32768, 65536]


def test_where_a_file_is_cut_does_not_depend_on_how_it_is_read(tmp_path, monkeypatch):
    generator = random.Random(1)
    lines = ["word " * generator.randrange(40) + generator.choice(["", "\r", "é"]) for _ in range(20_000)]
    path = write(tmp_path, "\r\n".join(lines))
    for separator in ("auto", "line", "blank_line", "word \nword", "file"):
        found = []
        for block_bytes in (1 << 20, 4099):
            monkeypatch.setattr(unpacking, "BLOCK_BYTES", block_bytes)
            found.append(documents(path, separator))
        assert found[0] == found[1], separator


@pytest.mark.parametrize(
    ("separator", "sizes"),
    [("auto", (70, 210)), ("line", (4, 40)), ("blank_line", (4, 40)), ("<|endoftext|>", (4, 40))],
)
def test_memory_stays_flat_as_a_file_grows(tmp_path, separator, sizes):  # auto: cuts grow with the file up to 16 MiB
    block = ("A line of ordinary text that goes on for a while.\n" * 20 + "\n<|endoftext|>\n\n") * 250
    peaks = []
    for copies in sizes:
        path = write(tmp_path, block * copies)
        tracemalloc.start()
        for _ in txt_documents(path, separator, Counter()):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert path.stat().st_size > 10_000_000 and peaks[1] < 1.1 * peaks[0] < 8_000_000
