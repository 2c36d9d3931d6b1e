"""JSON lines, JSON, CSV and Parquet: every row read, what is broken named, what is empty counted."""

import csv
import gzip
import json
import random
import tracemalloc
from collections import Counter

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from hfgpt.data import unpacking
from hfgpt.data.row_formats import ROW_FORMATS
from hfgpt.data.row_texts import row_texts
from hfgpt.errors import UserError

TEXTS = [
    "plain",
    "two\nlines",
    'quotes " and, commas',
    "Grüße 世界 🌍",
    " \\u0041 \\n ",
    "\r\ncarriage",
    "\u2028x",
] * 300


def read(path, kind, column="text"):
    counts = Counter()
    return list(row_texts(path, kind, column, counts)), counts


def write(path, kind, rows, layout="list"):
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row, ensure_ascii=bool(i % 2)) for i, row in enumerate(rows)))
    elif kind == "json":
        whole = {"list": rows, "data": {"data": rows}, "late data": {"version": 2, "data": rows, "more": {"a": []}}}
        path.write_text(json.dumps(whole[layout], indent=1 if layout != "list" else None))
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=500)
    return path


ROWS = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]


@pytest.mark.parametrize("kind", list(ROW_FORMATS))
def test_every_row_comes_back_as_it_was(tmp_path, monkeypatch, kind):
    path = write(tmp_path / f"a.{kind}", kind, ROWS)
    for block_bytes in (1 << 18, 1009):
        monkeypatch.setattr(unpacking, "BLOCK_BYTES", block_bytes)
        assert read(path, kind) == (TEXTS, Counter())


@pytest.mark.parametrize("packing", ["gz", "zst"])
@pytest.mark.parametrize("kind", list(ROW_FORMATS))
def test_packed_files_of_every_format_are_read(tmp_path, kind, packing):
    data = write(tmp_path / f"a.{kind}", kind, ROWS).read_bytes()
    path = tmp_path / f"a.{kind}.{packing}"
    path.write_bytes(gzip.compress(data) if packing == "gz" else zstandard.ZstdCompressor().compress(data))
    assert read(path, kind) == (TEXTS, Counter())


@pytest.mark.parametrize("layout", ["data", "late data"])
def test_a_json_object_with_a_data_list_gives_its_items(tmp_path, monkeypatch, layout):
    monkeypatch.setattr(unpacking, "BLOCK_BYTES", 4001)
    assert read(write(tmp_path / "a.json", "json", ROWS, layout), "json")[0] == TEXTS


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"text": "a"}\n{"text": "b"}\n', ["a", "b"]),
        ('{"text": "a"} {"text": "b"}', ["a", "b"]),
        ('{"text": "alone"}', ["alone"]),
        ('{"text": "a", "data": [1]}\n{"text": "b"}', ["a", "b"]),
        ("[]", []),
        (' \n[ {"text" : "a"} , {"text":"b"}\n]\n', ["a", "b"]),
        ('{"data": []}', []),
        ('{"data": [{"text": "a"}], "version": 1}\n', ["a"]),
    ],
)
def test_json_files_of_other_layouts(tmp_path, content, expected):
    (tmp_path / "a.json").write_text(content)
    assert read(tmp_path / "a.json", "json")[0] == expected


@pytest.mark.parametrize("kind", list(ROW_FORMATS))
def test_null_and_blank_texts_are_skipped_and_counted(tmp_path, kind):
    rows = [{"id": 1, "text": text} for text in ["a", None, "", " \n\t ", "b"]]
    assert read(write(tmp_path / "a", kind, rows), kind) == (["a", "b"], Counter(rows_without_text=3))


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_text_with_half_a_surrogate_pair_is_skipped_and_counted(tmp_path, kind):
    (tmp_path / "a").write_text('{"text": "cut \\ud83d"}\n{"text": "whole \\ud83d\\ude00"}')
    assert read(tmp_path / "a", kind) == (["whole 😀"], Counter(rows_with_broken_unicode=1))


@pytest.mark.parametrize("kind", list(ROW_FORMATS))
def test_a_missing_column_names_file_columns_and_key(tmp_path, kind):
    path = write(tmp_path / f"a.{kind}", kind, [{"id": 1, "content": "x"}])
    with pytest.raises(UserError, match=rf"a.{kind} has no column 'text' .*'id', 'content'.*data.columns"):
        read(path, kind)
    assert read(path, kind, "content")[0] == ["x"]


@pytest.mark.parametrize("value", [3, 2.5, True, ["a"], {"a": "b"}])
@pytest.mark.parametrize(("kind", "where"), [("jsonl", "line 2"), ("json", "row 2"), ("parquet", "row 1")])
def test_a_text_that_is_no_string_names_file_and_row(tmp_path, kind, where, value):
    rows = [{"text": "fine" if kind != "parquet" else value}, {"text": value}]
    path = write(tmp_path / f"a.{kind}", kind, rows)
    with pytest.raises(UserError, match=rf"a.{kind}: .*{where}.*data.columns"):
        read(path, kind)


def test_parquet_types_that_hold_text_are_read(tmp_path):
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        parquet.write_table(pa.table({"text": pa.array(["a", None, "b"]).cast(kind)}), tmp_path / "a.parquet")
        assert read(tmp_path / "a.parquet", "parquet")[0] == ["a", "b"]
    parquet.write_table(pa.table({"text": pa.array([None, None])}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", "parquet") == ([], Counter(rows_without_text=2))


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        ("jsonl", '{"text": "a"}\n\n{"text": "b"\n', ["line 3", "not valid JSON"]),
        ("jsonl", '{"text": "a"}\n["a list"]\n', ["line 2", "JSON list"]),
        ("jsonl", '{"text": "a"}\n{"text": 1' + "0" * 5000 + "}\n", ["line 2"]),
        ("jsonl", '{"text": "a"}\n' + "[" * 100_000 + "\n", ["line 2"]),
        ("jsonl", '{"text": "a"}\n{"other": "b"}\n', ["line 2", "'other'", "data.columns"]),
        ("json", '[{"text": "a"},\n{"text": "b"},\n{"text" "c"}]', ["line 3", "not valid JSON"]),
        ("json", '[{"text": "a"},\n{"text": "b"}', ["line 2", "ends inside the list"]),
        ("json", '[{"text": "a"}\n{"text": "b"}]', ["line 2", "Expecting ',' or ']'"]),
        ("json", '[{"text": "a"}]\n[{"text": "b"}]', ["line 2", "after the end"]),
        ("json", '{"data": [{"text": "a"}],\n "b": }', ["line 2", "not valid JSON"]),
        ("json", '{"data": [{"text": "a"}]\n', ["not valid JSON"]),
        ("json", '[{"text": "a"}, {"text": "b', ["line 1", "not valid JSON"]),
        ("json", "just words", ["line 1", "not valid JSON"]),
        ("json", '["a", "b"]', ["row 1", "JSON string"]),
        ("json", "[" * 100_000, ["line 1"]),
        ("csv", "id,text\n1,a\n2\n", ["line 3", "1 fields", "2 columns"]),
        ("csv", 'id,text\n1,"a\n2,b\n', ["not valid CSV"]),
        ("csv", 'id,text\n1,"a"b\n', ["line 2", "not valid CSV"]),
        ("parquet", "no parquet at all", ["no readable Parquet"]),
    ],
)
def test_broken_files_name_file_and_place_in_one_sentence(tmp_path, kind, content, words):
    path = tmp_path / f"bad.{kind}"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        read(path, kind)
    message = str(error.value)
    assert all(word in message for word in [f"bad.{kind}", *words]), message
    assert "\n" not in message and len(message) < 400


def test_a_broken_row_deep_inside_a_json_list_names_its_line_without_reading_on(tmp_path, monkeypatch):
    rows = [json.dumps(row) for row in ROWS]
    rows[700] = '{"id": 1 "text": "x"}'
    (tmp_path / "a.json").write_text("[\n" + ",\n".join(rows * 20) + "\n]")
    read_bytes = []
    blocks = unpacking.byte_blocks
    monkeypatch.setattr(unpacking, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(unpacking, "byte_blocks", lambda path: (read_bytes.append(len(b)) or b for b in blocks(path)))
    with pytest.raises(UserError, match="line 702 "):
        read(tmp_path / "a.json", "json")
    assert 0 < sum(read_bytes) < 100_000


@pytest.mark.parametrize("kept", [0.3, 0.95])
def test_a_parquet_file_cut_off_is_an_error_that_names_it(tmp_path, kept):
    path = write(tmp_path / "a.parquet", "parquet", ROWS)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(UserError, match="a.parquet is no readable Parquet file"):
        read(path, "parquet")


def test_a_parquet_file_with_damaged_pages_is_an_error_that_names_it(tmp_path):
    texts = ["".join(random.Random(n).choices("abcdefgh ", k=2000)) for n in range(500)]
    path = write(tmp_path / "a.parquet", "parquet", [{"text": text} for text in texts])
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 2000] = b"\xff" * 2000
    path.write_bytes(data)
    with pytest.raises(UserError, match="a.parquet"):
        read(path, "parquet")


def test_utf16_json_lines_and_utf8_csv_with_marks_are_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "Grüße"}\n', encoding="utf-16")
    assert read(tmp_path / "a.jsonl", "jsonl")[0] == ["Grüße"]
    (tmp_path / "a.csv").write_text("text,id\nGrüße,1\n", encoding="utf-8-sig")  # as spreadsheets write it
    assert read(tmp_path / "a.csv", "csv")[0] == ["Grüße"]


@pytest.mark.parametrize("kind", list(ROW_FORMATS))
def test_a_text_of_many_megabytes_is_one_document(tmp_path, kind):
    long = "long text, " * 500_000
    assert read(write(tmp_path / "a", kind, [{"text": "a"}, {"text": long}, {"text": "b"}]), kind)[0] == [
        "a",
        long,
        "b",
    ]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_memory_stays_flat_as_a_file_grows(tmp_path, kind):
    peaks = []
    for copies in (5, 50):
        path = write(tmp_path / "a", kind, [{"id": 1, "text": "A row of ordinary text. " * 40}] * 200 * copies)
        tracemalloc.start()
        for _ in row_texts(path, kind, "text", Counter()):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert path.stat().st_size > 9_000_000 and peaks[1] < 1.1 * peaks[0] < 6_000_000


def test_parquet_memory_stays_flat_as_a_file_grows(tmp_path):
    peaks = []
    for groups in (4, 40):
        path = tmp_path / "a.parquet"
        table = pa.table({"text": [f"{n} " + "A row of ordinary text. " * 40 for n in range(1000)]})
        with parquet.ParquetWriter(path, table.schema, compression="none") as writer:
            for _ in range(groups):
                writer.write_table(table)
        del table
        before, peak = pa.total_allocated_bytes(), 0
        for _ in row_texts(path, "parquet", "text", Counter()):
            peak = max(peak, pa.total_allocated_bytes() - before)
        peaks.append(peak)
    assert path.stat().st_size > 30_000_000 and peaks[1] < 1.1 * peaks[0] < 12_000_000
