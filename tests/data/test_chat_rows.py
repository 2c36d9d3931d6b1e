"""Conversations from local files, from the Hub and from the tiny world."""

import csv
import gzip
import io
import json
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from hfgpt.arguments import DataArguments
from hfgpt.data import tinyworld
from hfgpt.data.chat_rows import conversation_shards
from hfgpt.data.conversations import canonical
from hfgpt.errors import UserError

CALL = {"type": "function", "function": {"name": "look", "arguments": {"q": "cats", "n": 2}}}
SUM = {"type": "function", "function": {"name": "python", "arguments": {"expression": "1+1"}}}
CONVERSATIONS = [
    {
        "messages": [
            {"role": "user", "content": f'Look {n} up,\n"é".'},
            {"role": "assistant", "content": "", "tool_calls": [CALL if n % 2 else SUM]},
            {"role": "tool", "name": "look" if n % 2 else "python", "content": "2"},
            {"role": "assistant", "content": f"Found {n}."},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "description": "Looks."}}] if n % 3 else None,
    }
    for n in range(600)
]


def shards(path: Path | list[str], **data):
    path = [str(one) for one in path] if isinstance(path, list) else str(path)
    return conversation_shards(DataArguments(data_path=path, **data))


def conversations(found, counts=None) -> list[dict]:
    return [conversation for shard in found for conversation in shard.conversations(counts)]


def write(path: Path, rows: list[dict]) -> Path:
    kind = path.name.split(".")[1]
    if kind == "jsonl":
        data = "\n".join(map(json.dumps, rows)).encode()
    elif kind == "json":
        data = json.dumps(rows).encode()
    elif kind == "csv":  # a cell holds text, so lists are JSON in it
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, ["messages", "tools"])
        writer.writeheader()
        writer.writerows({name: json.dumps(cell) for name, cell in row.items() if cell is not None} for row in rows)
        data = file.getvalue().encode()
    else:
        buffer = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=100)
        data = buffer.getvalue()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = zstandard.compress(data)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_every_format_gives_the_same_conversations(tmp_path, kind, packing):
    path = write(tmp_path / f"chats.{kind}{packing}", CONVERSATIONS)
    counts: Counter = Counter()
    assert conversations(shards(path), counts) == CONVERSATIONS
    assert not counts


def test_a_folder_a_glob_and_a_list_are_read_in_natural_order(tmp_path):
    for number in (10, 2, 1):
        write(tmp_path / f"part{number}.jsonl", CONVERSATIONS[number : number + 1])
    wanted = [CONVERSATIONS[number] for number in (1, 2, 10)]
    assert conversations(shards(tmp_path)) == wanted
    assert conversations(shards(tmp_path / "part*.jsonl")) == wanted
    assert conversations(shards([tmp_path / "part10.jsonl", tmp_path / "part2.jsonl"])) == wanted[1:]


def test_bare_lists_of_turns_are_rows_of_both_json_formats(tmp_path):
    turns = [conversation["messages"] for conversation in CONVERSATIONS if conversation["tools"] is None]
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, turns)))
    (tmp_path / "b.json").write_text(json.dumps(turns))
    assert [one["messages"] for one in conversations(shards(tmp_path))] == turns * 2


def test_shards_are_read_again_and_in_another_process(tmp_path):
    write(tmp_path / "a.jsonl", CONVERSATIONS)
    (shard,) = shards(tmp_path)
    assert list(shard.conversations()) == list(shard.conversations())
    script = "import pickle, sys; print(len(list(pickle.load(sys.stdin.buffer).conversations())))"
    done = subprocess.run([sys.executable, "-c", script], input=pickle.dumps(shard), capture_output=True, timeout=60)
    assert done.stdout.strip() == b"600", done.stderr


def test_the_fingerprint_tells_files_and_columns_apart(tmp_path):
    path = write(tmp_path / "a.jsonl", CONVERSATIONS[:2])

    def fingerprint(**data) -> str:
        (shard,) = shards(path, **data)
        return shard.fingerprint()

    first = fingerprint()
    assert fingerprint() == first != fingerprint(columns={"messages": "messages"})
    write(path, CONVERSATIONS[:3])
    assert fingerprint() != first


def test_nothing_to_learn_from_is_counted_and_left_out(tmp_path):
    rows = [{"messages": []}, CONVERSATIONS[0], {"messages": [{"role": "user", "content": " "}]}, {"messages": None}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "b.jsonl").touch()
    counts: Counter = Counter()
    assert conversations(shards(tmp_path), counts) == CONVERSATIONS[:1]
    assert counts == {"rows_without_turns": 2, "rows_with_blank_turns": 1, "empty_files": 1}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (
            "a.jsonl",
            '{"messages": []}\n\n{"messages": 3}',
            r"a\.jsonl: line 3: column 'messages' is of type number.*mend",
        ),
        ("a.json", '[{"messages": []}, {"text": "x"}]', r"a\.json: row 2: no conversation in its columns \(text\)"),
        ("a.csv", "prompt,completion\r\nhi,ho\r\n", None),
        ("a.csv", "prompt,answer\r\nhi,ho\r\n", r"a\.csv: line 2: no conversation in its columns \(prompt, answer\)"),
        ("a.jsonl", '{"messages": [}', r"a\.jsonl: line 1 is not valid JSON"),
        ("a.jsonl", '"hi"', r"a\.jsonl: line 1: it is a JSON string, not an object with named columns"),
        ("a.txt", "hello", r"a\.txt is plain text, but conversations and preferences are rows: give \.jsonl, \.json"),
    ],
)
def test_what_cannot_be_read_names_file_row_and_reason(tmp_path, name, content, complaint):
    (tmp_path / name).write_text(content, newline="")
    if complaint is None:
        assert len(conversations(shards(tmp_path / name))) == 1
        return
    with pytest.raises(UserError, match=complaint) as raised:
        conversations(shards(tmp_path / name))
    assert "\n" not in str(raised.value) and str(tmp_path / name) in str(raised.value)


def test_a_broken_row_of_a_parquet_file_is_named(tmp_path):
    rows = [[{"role": "user", "content": "x"}]] * 300 + [[{"role": "critic", "content": "x"}]]
    parquet.write_table(pa.table({"messages": rows}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match='a.parquet: row 301: turn 1 has the role "critic"'):
        conversations(shards(tmp_path))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({}, "No conversations to read: set data.dataset .* or data.data_path"),
        ({"dataset": "a/b", "data_path": "c"}, "both set"),
        ({"dataset": "gutenberg"}, "hold no conversations"),
        ({"data_path": "x", "format": "gutenberg"}, "hold no conversations"),
        ({"data_path": "x", "columns": {"text": "body"}}, "has the key 'text', which is none of answer, completion"),
        ({"data_path": "/nowhere/at/all"}, "there is no file or folder /nowhere/at/all"),
    ],
)
def test_sources_that_hold_no_conversations_are_refused(data, complaint):
    with pytest.raises(UserError, match=complaint):
        conversation_shards(DataArguments(**data))


def test_the_tiny_world_is_a_source_of_canonical_conversations():
    data = DataArguments(dataset="tinyworld", tinyworld_conversations=6000)
    found = conversation_shards(data)
    assert [shard.name for shard in found] == [shard.name for shard in tinyworld.chat_shards(data)]
    first = next(iter(found[0].conversations()))
    assert canonical(first, {}) == {"tools": None} | first and len(found) == 2


def test_datasets_of_the_hub_are_read(hub_server, tmp_path):
    files = {}
    for number in range(3):
        path = write(tmp_path / "part.parquet", CONVERSATIONS[number * 200 : (number + 1) * 200])
        files[f"data/train-{number:05d}-of-00003.parquet"] = path.read_bytes()
    files["data/test-00000-of-00001.parquet"] = files["data/train-00000-of-00003.parquet"]
    hub_server.add_dataset("org/chats", files)
    broken = json.dumps({"dialogue": [{"role": "user", "content": 1}]}).encode()
    hub_server.add_dataset("org/broken", {"train.jsonl": broken})
    script = (
        "import json, sys; from collections import Counter; from hfgpt.arguments import DataArguments\n"
        "from hfgpt.data.chat_rows import conversation_shards, download; from hfgpt.errors import UserError\n"
        "shards = conversation_shards(DataArguments(dataset='org/chats', num_shards=2)); download(shards)\n"
        "print(json.dumps([one for shard in shards for one in shard.conversations()]))\n"
        "shards = conversation_shards(DataArguments(dataset='org/broken', columns={'messages': 'dialogue'}))\n"
        "try: list(shards[0].conversations())\n"
        "except UserError as error: print(error)\n"
    )
    environment = hub_server.env(tmp_path)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    read, complaint = done.stdout.splitlines()
    assert json.loads(read) == CONVERSATIONS[:400]
    assert complaint.startswith("train.jsonl of org/broken: line 1: turn 1 has content of type number, not text")
