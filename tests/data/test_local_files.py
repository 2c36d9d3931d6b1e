"""Finding local files and reading them as shards."""

import gzip
import json
import os
import pickle
import subprocess
import sys
from collections import Counter

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from hfgpt.arguments import DataArguments
from hfgpt.data import local_files
from hfgpt.data.local_files import local_shards, natural_order
from hfgpt.errors import UserError


def shards(*entries, **data):
    return local_shards(DataArguments(data_path=[str(entry) for entry in entries], **data))


def names(found):
    return [file.path.name for shard in found for file in shard.files]


def texts(found, counts=None):
    return [text for shard in found for text in shard.documents(counts)]


@pytest.fixture
def folder(tmp_path):
    """One document in each format and packing, among files that are none of these."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "no.txt").write_text("hidden folder")
    (tmp_path / ".no.txt").write_text("hidden file")
    (tmp_path / "README.md").write_text("not a document")
    (tmp_path / "part10.txt").write_text("txt ten")
    (tmp_path / "part2.TXT").write_text("txt two")
    (tmp_path / "deep" / "a.jsonl.zst").write_bytes(zstandard.compress(b'{"text": "jsonl zst"}\n'))
    (tmp_path / "deep" / "b.json").write_text('[{"text": "json"}]')
    (tmp_path / "deep" / "er" / "c.csv.gz").write_bytes(gzip.compress(b"text\r\ncsv gz\r\n"))
    parquet.write_table(pa.table({"text": ["parquet"]}), tmp_path / "deep" / "er" / "d.parquet")
    return tmp_path


def test_a_folder_gives_every_readable_file_in_natural_order(folder):
    found = shards(folder)
    assert texts(found) == ["jsonl zst", "json", "csv gz", "parquet", "txt two", "txt ten"]
    assert [file.format for file in found[0].files] == ["jsonl", "json", "csv", "parquet", "txt", "txt"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", ["part10.txt"]),
        ("part*", ["part2.TXT", "part10.txt"]),
        ("**/*.parquet", ["d.parquet"]),
        ("d*p", ["a.jsonl.zst", "b.json", "c.csv.gz", "d.parquet"]),
        ("deep/[ab].*", ["a.jsonl.zst", "b.json"]),
        ("*", ["a.jsonl.zst", "b.json", "c.csv.gz", "d.parquet", "part2.TXT", "part10.txt"]),
    ],
)
def test_globs_give_the_readable_files_that_match(folder, pattern, expected):
    assert names(shards(folder / pattern)) == expected


def test_a_file_named_by_several_entries_is_read_once(folder):
    assert names(shards(folder / "part10.txt", folder / "*.txt", folder)) == names(shards(folder))


def test_a_file_whose_name_looks_like_a_glob_is_taken_by_its_name(tmp_path):
    (tmp_path / "data[1].txt").write_text("one")
    assert texts(shards(tmp_path / "data[1].txt")) == ["one"]


def test_paths_relative_to_home_and_to_the_working_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    assert texts(shards("part10.txt")) == texts(shards("~/part10.txt")) == ["txt ten"]


def test_linked_folders_are_followed_and_circles_end(folder):
    (folder / "deep" / "circle").symlink_to(folder)
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "linked.txt").write_text("linked")
    (folder / "deep" / "er" / "link").symlink_to(folder / "elsewhere")
    assert sorted(texts(shards(folder / "deep" / "er"))) == ["csv gz", "linked", "parquet"]
    assert sorted(set(texts(shards(folder)))) == sorted([*texts(shards(folder))])


def test_a_format_that_is_asked_for_picks_the_files_that_can_have_it(folder):
    assert names(shards(folder, format="txt")) == ["part2.TXT", "part10.txt"]
    assert names(shards(folder / "*.md", format="txt")) == ["README.md"]
    assert names(shards(folder / "deep", format="json")) == ["a.jsonl.zst", "b.json"]
    assert texts(shards(folder / "README.md", format="txt")) == ["not a document"]


def test_columns_name_the_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": "x", "text": "y"}\n')
    assert texts(shards(tmp_path, columns={"text": "content"})) == ["x"]


def test_names_are_unique_stable_and_the_same_wherever_the_folder_lies(folder, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(local_files, "SHARD_BYTES", 0)
    found = [shard.name for shard in shards(folder)]
    assert found == [
        "deep/a.jsonl.zst",
        "deep/b.json",
        "deep/er/c.csv.gz",
        "deep/er/d.parquet",
        "part2.TXT",
        "part10.txt",
    ]
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    folder.rename(elsewhere)
    assert [shard.name for shard in shards(elsewhere)] == found


def test_small_files_share_a_shard_and_large_ones_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(local_files, "SHARD_BYTES", 100)
    for number, size in enumerate([40, 60, 10, 500, 1, 99, 1]):
        (tmp_path / f"{number}.txt").write_text("x" * size)
    found = shards(tmp_path)
    assert [[len(t) for t in shard.documents()] for shard in found] == [[40, 60], [10], [500], [1, 99], [1]]
    assert [shard.name for shard in found] == ["0.txt", "2.txt", "3.txt", "4.txt", "6.txt"]


def test_shards_can_be_pickled_and_read_again(folder):
    for shard in shards(folder):
        copy = pickle.loads(pickle.dumps(shard))
        assert copy == shard and copy.fingerprint() == shard.fingerprint()
        assert list(copy.documents()) == list(shard.documents()) == list(shard.documents())


def test_the_fingerprint_changes_with_the_file_and_with_how_it_is_read(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    first = shards(path)[0].fingerprint()
    assert shards(path)[0].fingerprint() == first
    assert shards(path, document_separator="line")[0].fingerprint() != first
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert shards(path)[0].fingerprint() != first
    path.write_text("other")
    assert shards(path)[0].fingerprint() != first


def test_empty_files_are_skipped_and_counted(tmp_path):
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.txt").write_text("text")
    (tmp_path / "c.txt").write_text(" \n\n")
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "e.parquet").touch()
    counts = Counter()
    assert texts(shards(tmp_path), counts) == ["text"]
    assert counts == Counter(empty_files=3, blank_documents=1)


@pytest.mark.parametrize(
    ("entry", "data", "words"),
    [
        ("gone.txt", {}, ["no file or folder", "gone.txt"]),
        ("gone/*.txt", {}, ["gone/*.txt", "nothing matches"]),
        ("*.md", {}, ["*.md", "none of its 1 matches"]),
        ("README.md", {}, ["README.md", "data.format"]),
        ("part10.txt", {"format": "parquet"}, [".txt", "data.format is parquet"]),
        ("part*", {"format": "csv"}, ["none of its 2 matches", ".csv (data.format is csv)"]),
        ("void", {}, ["folder", "void", ".jsonl"]),
        ("deep", {"format": "txt"}, ["deep", ".txt (data.format is txt)"]),
        ("void/pipe.txt", {}, ["pipe.txt is neither"]),
        ("broken", {}, ["link.txt cannot be read: No such file"]),
        ("empty", {}, ["every file is empty (2, the first is", "0.txt"]),
        ("part10.txt", {"columns": {"content": "text"}}, ["data.columns has no key 'text'", "content"]),
        ("part10.txt", {"document_separator": ""}, ["data.document_separator is empty"]),
    ],
)
def test_what_cannot_be_found_or_read_is_one_sentence(folder, entry, data, words):
    (folder / "void").mkdir()
    os.mkfifo(folder / "void" / "pipe.txt")
    (folder / "broken").mkdir()
    (folder / "broken" / "link.txt").symlink_to(folder / "gone.txt")
    (folder / "empty").mkdir()
    for number in range(2):
        (folder / "empty" / f"{number}.txt").touch()
    with pytest.raises(UserError) as error:
        shards(folder / entry, **data)
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and message.endswith(".")


def test_no_path_at_all_is_one_sentence():
    with pytest.raises(UserError, match="data.data_path is an empty list"):
        local_shards(DataArguments(data_path=[]))


def test_a_file_without_permission_is_one_sentence(tmp_path):
    (tmp_path / "a.txt").write_text("secret")
    (tmp_path / "a.txt").chmod(0)
    for folder in [tmp_path, *tmp_path.parents]:  # root reads everything: try as nobody, who must reach the file
        if (
            os.access(folder, os.W_OK)
            and folder.stat().st_uid == os.getuid()
            and folder.name.startswith(("pytest", "popen"))
        ):
            folder.chmod(0o755)
    tmp_path.chmod(0o755)
    script = (
        "import os, sys\n"
        "from hfgpt.arguments import DataArguments\n"
        "from hfgpt.data.local_files import local_shards\n"
        "os.geteuid() or os.setresuid(65534, 65534, 65534)\n"
        "local_shards(DataArguments(data_path=sys.argv[1]))"
    )
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.txt")], capture_output=True, text=True)
    assert "UserError" in result.stderr and "a.txt cannot be read: permission denied" in result.stderr, result.stderr


def test_natural_order_compares_numbers_as_numbers():
    found = ["b10", "b9", "a", "B1", "b009", "10", "9x", "b9a"]
    assert sorted(found, key=natural_order) == ["9x", "10", "B1", "a", "b009", "b9", "b9a", "b10"]


def test_real_corpora_are_read_whole(shared_data):
    (shard,) = shards(shared_data / "corpora" / "c4_demo.first240.jsonl")
    lines = (shared_data / "corpora" / "c4_demo.first240.jsonl").read_text().splitlines()
    assert list(shard.documents()) == [json.loads(line)["text"] for line in lines]
    (shard,) = shards(shared_data / "corpora" / "wiki_demo.first24.txt", document_separator="line")
    assert len(list(shard.documents())) == 24


def test_importing_the_sources_loads_neither_torch_nor_pyarrow():
    script = "import sys, hfgpt.data.documents, hfgpt.data.local_files; print({'torch', 'pyarrow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"
