"""Bad text, conversations, preference pairs and prompts are refused by file and row, through the command itself."""

import gzip
import json
import os

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from hfgpt.cli import main

TEXTS = [f"This is document number {n}, and it says that {n} is followed by {n + 1}. " * 6 for n in range(40)]


def lines(*rows: object) -> bytes:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()


def table(**columns: list) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


GOOD = [{"text": text} for text in TEXTS]
# File name, its bytes, flags, and what the sentence must name beside the file.
TEXT: dict[str, tuple[str, bytes | None, str, tuple[str, ...]]] = {
    "no such file": ("absent.txt", None, "", ()),
    "an unknown suffix": ("text.docx", b"PK\x03\x04", "", (".txt", ".jsonl")),
    "a name that asks for another format": ("good.jsonl", lines(*GOOD), "--format csv", ("csv",)),
    "an empty file": ("empty.txt", b"", "", ("empty",)),
    "blank lines alone": ("blank.txt", b"\n \n\t\n" * 50, "", ()),
    "binary junk": ("junk.txt", bytes(range(256)) * 400, "", ()),
    "zero bytes": ("zero.txt", b"\x00" * 4000, "", ()),
    "Latin-1 after a start in UTF-8": ("late.txt", b"Gut. " * 20_000 + b"\xe4\xf6" + b" more" * 99, "", ("UTF-8",)),
    "an empty separator": ("text.txt", TEXTS[0].encode(), "--document_separator=", ("document_separator",)),
    "a broken line of JSON": ("cut.jsonl", lines(*GOOD[:3], '{"text": "cut'), "", ("line 4", "JSON")),
    "a comma too many": ("comma.jsonl", lines(*GOOD[:2], '{"text": "a",}'), "", ("line 3", "JSON")),
    "a line that is a list": ("list.jsonl", lines(*GOOD[:2], ["text"]), "", ("line 3",)),
    "a line that is a number": ("number.jsonl", lines(*GOOD[:2], 17), "", ("line 3",)),
    "text that is a number": ("typed.jsonl", lines(*GOOD[:5], {"text": 17}), "", ("line 6", "text")),
    "text that is a list": ("typed.jsonl", lines({"text": ["a", "b"]}), "", ("line 1", "text")),
    "no column text": ("body.jsonl", lines(*[{"body": text} for text in TEXTS]), "", ("text", "body", "columns")),
    "a column that is not there": ("good.jsonl", lines(*GOOD), '--columns {"text":bodi}', ("bodi", "text")),
    "an unknown key in columns": ("good.jsonl", lines(*GOOD), '--columns {"txet":text}', ("txet", "text")),
    "nulls alone": ("nulls.jsonl", lines(*[{"text": None}] * 5), "", ()),
    "a thousand brackets in JSON": ("deep.jsonl", lines(*GOOD, "[" * 100_000), "", ("line 41", "JSON")),
    "a number of 5000 digits in JSON": (
        "digits.jsonl",
        lines(*GOOD, '{"text": ' + "9" * 5000 + "}"),
        "",
        ("line 41",),
    ),
    "JSON that ends in its list": ("cut.json", json.dumps(GOOD).encode()[:-1], "", ("line 1", "JSON")),
    "JSON with text after its end": ("more.json", json.dumps(GOOD).encode() + b" and more", "", ("line 1", "JSON")),
    "CSV with a cell too many": ("wide.csv", b"text\n" + b"one\n" * 5 + b"one,two\n", "", ("line 7", "columns")),
    "CSV with an open quote": ("open.csv", b'text\n"' + b"never closed\n" * 40, "", ("CSV",)),
    "CSV without the column": ("body.csv", b"body,n\none,1\ntwo,2\n", "", ("text", "body")),
    "Parquet that is none": ("fake.parquet", b"PAR1 but nothing of the kind", "", ("Parquet",)),
    "Parquet cut in two": ("cut.parquet", table(text=TEXTS)[:-30], "", ("Parquet",)),
    "Parquet without the column": ("body.parquet", table(body=TEXTS), "", ("text", "body", "data.columns")),
    "Parquet with numbers": ("numbers.parquet", table(text=list(range(50))), "", ("int64", "text")),
    "a cut gz": ("cut.jsonl.gz", gzip.compress(lines(*GOOD))[:-40], "", ("gz",)),
    "a gz that is none": ("fake.txt.gz", b"plain text " * 99, "", ("gz",)),
    "a gz with a flipped byte": ("flip.txt.gz", gzip.compress(lines(*GOOD))[:-6] + b"\x00" * 6, "", ("gz",)),
    "a cut zst": ("cut.jsonl.zst", zstandard.compress(lines(*GOOD))[:-20], "", ("zst",)),
    "a zst that is none": ("fake.txt.zst", b"plain text " * 99, "", ("zst",)),
    "documents too short for a row": (
        "short.jsonl",
        lines(*[{"text": chr(97 + n)} for n in range(26)]),
        "",
        ("max_length",),
    ),
    "everything held out": ("one.txt", b"One single short text.", "--validation_fraction 0.999999", ()),
    "nothing to hold out": ("one.txt", TEXTS[0].encode() * 20, "", ("validation_fraction",)),
    "two sources": ("good.jsonl", lines(*GOOD), "--dataset tinyworld --data_path in", ("data_path",)),
}
WITHOUT_FILE = {
    *("an empty separator", "an unknown key in columns", "documents too short for a row"),
    "two sources",
    "nothing to hold out",
}


@pytest.mark.parametrize("case", TEXT)
def test_bad_text_is_refused_by_name(refused, here, case):
    name, content, flags, culprits = TEXT[case]
    (here / "in").mkdir()
    if content is not None:
        (here / "in" / name).write_bytes(content)
    words = ["data", "prepare", "small.yaml", "--num_proc", "1", "--vocab_size", "270", "--max_length", "64"]
    sentence = refused([*words, "--data_path", f"in/{name}", *flags.split()], *culprits)
    assert name in sentence or case in WITHOUT_FILE


@pytest.mark.parametrize(
    ("path", "culprits"),
    [
        ("nothing", ("nothing",)),
        ("*.csv", ("*.csv",)),
        ("[", ("[",)),
        ("", ("data_path",)),
        ("pipe", ("pipe",)),
        ("lost.txt", ("lost.txt",)),
        ("folder.txt", ("folder.txt",)),
        ("a" * 300, ("a" * 300,)),
        ("in\0side.txt", ("side.txt",)),
        ("http://127.0.0.1:9/book.txt", ("http://127.0.0.1:9/book.txt",)),
        ("ftp://127.0.0.1/book.txt", ("ftp://127.0.0.1/book.txt",)),
    ],
)
def test_a_path_that_leads_to_no_text_is_refused(refused, here, path, culprits):
    (here / "nothing").mkdir()
    (here / "folder.txt").mkdir()
    os.mkfifo(here / "pipe")
    (here / "lost.txt").symlink_to("nowhere.txt")
    refused(["data", "prepare", "small.yaml", "--num_proc", "1", "--data_path", path], *culprits)


def chat(*turns: tuple[str, object], **more: object) -> dict:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **more}


HELLO = chat(("user", "Hi"), ("assistant", "Hello."))
CHATS: dict[str, tuple[list, tuple[str, ...]]] = {
    "no conversation": ([{"text": "Once upon a time"}], ("line 1", "messages", "data.columns")),
    "preference pairs": ([{"prompt": "Hi", "chosen": "a", "rejected": "b"}], ("line 1", "dpo")),
    "messages that are a number": ([{"messages": 7}], ("line 1", "messages")),
    "messages that are text": ([{"messages": "Hi"}], ("line 1", "messages", "JSON")),
    "a turn that is text": ([{"messages": ["Hi", "Hello."]}], ("line 1", "turn 1")),
    "a turn without a role": ([{"messages": [{"content": "Hi"}]}], ("line 1", "turn 1", "role")),
    "an unknown role": ([HELLO, chat(("alien", "Zog"))], ("line 2", "turn 1", "alien")),
    "a role that is a number": ([chat((7, "Hi"))], ("line 1", "turn 1")),
    "content that is a number": ([chat(("user", 7))], ("line 1", "turn 1")),
    "a picture": (
        [chat(("user", [{"type": "image", "url": "x"}]), ("assistant", "A cat."))],
        ("line 1", "turn 1", "image"),
    ),
    "a call without a name": (
        [{"messages": [{"role": "assistant", "content": "", "tool_calls": [{"function": {"arguments": {}}}]}]}],
        ("line 1", "turn 1", "name"),
    ),
    "a call with arguments that are a list": (
        [{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}]}],
        ("line 1", "turn 1", "arguments"),
    ),
    "a call with broken JSON": (
        [{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}],
        ("line 1", "f", "JSON"),
    ),
    "tools that are a number": ([HELLO | {"tools": 7}], ("line 1", "tools")),
    "a system prompt that is a list": ([HELLO | {"system": ["be brief"]}], ("line 1", "system")),
    "an answer that is a number": ([{"instruction": "Add", "output": 7}], ("line 1", "output")),
    "a completion that is a map": ([{"prompt": "Hi", "completion": {"x": 1}}], ("line 1", "role")),
    "blank turns alone": ([chat(("user", " "), ("assistant", ""))] * 5, ()),
    "no turns": ([{"messages": []}] * 5, ()),
    "no answers": ([chat(("user", f"Hi {n}?")) for n in range(9)], ("answer",)),
    "answers too long for a row": ([chat(("user", "Hi"), ("assistant", "Hello " * 500))] * 9, ("max_length",)),
    "one conversation, all held out": ([HELLO], ()),
    "lone surrogates alone": (['{"messages": [{"role": "user", "content": "\\ud800"}]}'] * 9, ()),
    "a broken line": ([HELLO, '{"messages": ['], ("line 2", "JSON")),
}


@pytest.mark.parametrize("case", CHATS)
def test_bad_conversations_are_refused_by_row(refused, here, run_folder, case):
    rows, culprits = CHATS[case]
    (here / "chats.jsonl").write_bytes(lines(*rows))
    flags = ["--sft.validation_fraction", "0.999999999"] if "held out" in case else []
    start = ["--model_name_or_path", str(run_folder / "pretrain")]
    sentence = refused(["sft", "small.yaml", "--sft.data_path", "chats.jsonl", *start, *flags], *culprits)
    assert "chats.jsonl" in sentence


PAIRS: dict[str, tuple[list, tuple[str, ...]]] = {
    "no rejected side": ([{"prompt": "Hi", "chosen": "Hello."}], ("line 1", "rejected")),
    "conversations": ([HELLO], ("line 1", "chosen")),
    "no prompt": ([{"chosen": "a", "rejected": "b"}], ("line 1", "prompt")),
    "a side that is a number": ([{"prompt": "Hi", "chosen": 1, "rejected": "b"}], ("line 1", "chosen")),
    "a prompt that is a number": ([{"prompt": 1, "chosen": "a", "rejected": "b"}], ("line 1", "prompt")),
    "a prompt that ends with an answer": (
        [{"prompt": HELLO["messages"], "chosen": "a", "rejected": "b"}],
        ("line 1", "prompt", "user"),
    ),
    "equal sides alone": ([{"prompt": "Hi", "chosen": "a", "rejected": "a"}] * 5, ()),
    "pairs too long for a row": ([{"prompt": "Hi", "chosen": "a " * 999, "rejected": "b"}] * 5, ("too long",)),
    "a list": ([["Hi", "Hello."]], ("line 1",)),
    "tools that are text": ([{"prompt": "Hi", "chosen": "a", "rejected": "b", "tools": "{"}], ("line 1", "tools")),
}


@pytest.mark.parametrize("case", PAIRS)
def test_bad_preference_pairs_are_refused_by_row(refused, here, run_folder, case):
    rows, culprits = PAIRS[case]
    (here / "pairs.jsonl").write_bytes(lines(*rows))
    start = ["--model_name_or_path", str(run_folder / "pretrain")]
    assert "pairs.jsonl" in refused(["dpo", "small.yaml", "--dpo.data_path", "pairs.jsonl", *start], *culprits)


PROMPTS: dict[str, tuple[list, tuple[str, ...]]] = {
    "no answer": ([{"question": "1+1?"}], ("line 1", "answer")),
    "an answer that is a list": ([{"question": "1+1?", "answer": [2]}], ("line 1", "answer")),
    "an answer that is true": ([{"question": "1+1?", "answer": True}], ("line 1", "answer")),
    "no question": ([{"answer": "2"}], ("line 1", "prompt")),
    "a question that is a number": ([{"question": 7, "answer": "2"}], ("line 1", "question")),
    "a blank question": ([{"question": " ", "answer": "2"}] * 5, ()),
    "questions too long for a row": ([{"question": "one " * 500, "answer": "2"}] * 5, ("too long",)),
    "an unknown column": ([{"question": "1+1?", "answer": "2"}], ("solution",)),
}


@pytest.mark.parametrize("case", PROMPTS)
def test_bad_prompts_are_refused_by_row(refused, here, run_folder, case):
    rows, culprits = PROMPTS[case]
    (here / "prompts.jsonl").write_bytes(lines(*rows))
    start = ["--model_name_or_path", str(run_folder / "pretrain")]
    columns = ["--grpo.columns", "{solution: answer}"] if case == "an unknown column" else []
    sentence = refused(["grpo", "small.yaml", "--grpo.data_path", "prompts.jsonl", *start, *columns], *culprits)
    assert "prompts.jsonl" in sentence or columns


PREPARE = ["data", "prepare", "small.yaml", "--data_path", "rows.jsonl", "--num_proc", "1"]


def test_refused_data_leaves_nothing_half_made(refused, here):
    (here / "rows.jsonl").write_bytes(lines(*GOOD, "{broken"))
    refused(PREPARE, "rows.jsonl", "line 41")
    (here / "rows.jsonl").write_bytes(lines(*GOOD))
    assert main(PREPARE) == 0


def test_what_is_only_unusual_is_not_refused(here, capsys):
    unusual = [{"text": None}, {"text": ""}, {"text": " ".join(TEXTS) * 20}]
    (here / "rows.jsonl").write_bytes(lines(*GOOD, *unusual))
    assert main([*PREPARE, "--shard_size", "2000"]) == 0
    said = capsys.readouterr().out
    assert "2 rows without text" in said and "longer than a row" in said
