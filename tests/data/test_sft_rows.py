"""Rows for supervised fine-tuning: made once, whole, split by content, with every loss counted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from hfgpt.arguments import DataArguments
from hfgpt.data import sft_rows
from hfgpt.data.chat_rows import conversation_shards
from hfgpt.data.chat_tokens import render, tokenize_conversation
from hfgpt.data.sft_batches import SftCounts
from hfgpt.data.sft_rows import sft_dataset
from hfgpt.data.splitting import is_validation
from hfgpt.data.tokenizer import load_tokenizer
from hfgpt.errors import UserError


def chat(*contents: str) -> dict:
    roles = ("user", "assistant") * len(contents)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]}


ROWS = [chat(f"what is {n}?", f"it is {n}." + " and more" * (n % 7), "thanks", "bye") for n in range(300)]


@pytest.fixture
def rows_file(tmp_path) -> Path:
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


@pytest.fixture
def make(tokenizer, tmp_path):
    def made(path: Path, max_length: int = 200, **data):
        return sft_dataset(DataArguments(data_path=str(path), **data), tokenizer, max_length, tmp_path / "cache")

    return made


def texts(tokenizer, rows: Dataset) -> list[str]:
    return [tokenizer.decode(ids) for ids in rows["input_ids"]]


def learnt(tokenizer, row: dict) -> str:
    return tokenizer.decode([label for label in row["labels"] if label != -100])


def test_every_conversation_is_one_row_in_order_with_its_answers_learnt(tokenizer, make, rows_file):
    made = make(rows_file, validation_fraction=0.0)
    assert made.train.column_names == ["input_ids", "labels"] and len(made.validation) == 0
    assert len(made.train) == 300
    for row, given in zip(made.train, ROWS, strict=True):
        assert tokenizer.decode(row["input_ids"]) == tokenizer.apply_chat_template(given["messages"], tokenize=False)
        assert learnt(tokenizer, row) == f"{given['messages'][1]['content']}<|end|>bye<|end|>"
        assert all(label in (-100, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))
    tokens = sum(map(len, made.train["input_ids"]))
    supervised = sum(label != -100 for labels in made.train["labels"] for label in labels)
    assert made.counts == SftCounts(conversations=300, rows=300, tokens=tokens, supervised_tokens=supervised)


def test_validation_is_chosen_by_the_text_and_copies_stay_together(tokenizer, make, tmp_path):
    path = tmp_path / "twice.jsonl"
    path.write_text("\n".join(map(json.dumps, [*ROWS, *reversed(ROWS)])))
    made = make(path, validation_fraction=0.2)
    train, validation = texts(tokenizer, made.train), texts(tokenizer, made.validation)
    assert len(train) + len(validation) == 600 and 80 < len(validation) < 160
    assert not set(train) & set(validation)
    assert sorted(set(train + validation)) == sorted(set(texts(tokenizer, make(path, validation_fraction=0).train)))
    # the rendered text without BOS decides, as it does where midtraining reads conversations as documents
    for text in (*train, *validation):
        assert is_validation(text.removeprefix("<|bos|>"), 0.2) == (text in set(validation))


def test_what_does_not_fit_is_cut_after_a_turn_or_dropped_and_counted(tokenizer, make, tmp_path):
    rows = [
        chat("hi", "ho", "again", "long " * 30),  # cut after its first answer
        chat("hi", "long " * 30, "again", "ho"),  # loses both
        chat("hi"),
        chat("hi", "ho", "and?"),
        chat("hi", " "),
        {"messages": []},
        chat("hi", "half of \ud83d"),
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    made = make(path, max_length=40, validation_fraction=0.0)
    assert texts(tokenizer, made.train) == ["<|bos|><|user|>hi<|end|><|assistant|>ho<|end|>"] * 2
    counts = made.counts
    assert (counts.conversations, counts.rows, counts.truncated, counts.too_long, counts.without_answer) == (
        4,
        2,
        1,
        1,
        1,
    )
    assert counts.unanswered == 1
    assert counts.left_out == {
        "rows_with_blank_turns": 1,
        "rows_without_turns": 1,
        "rows_with_broken_unicode": 1,
    }
    share = counts.supervised_tokens / counts.tokens
    assert counts.summary() == (
        f"4 conversations -> 2 rows, {counts.tokens} tokens, {counts.supervised_tokens} of them supervised "
        f"({share:.1%}); 1 truncated after a turn, 1 after their last answer; left out: 1 that lost all answers to "
        "truncation, 1 without an answer, 1 with blank turns, 1 without turns, 1 with broken unicode"
    )


def test_rows_are_those_of_the_conversations_one_by_one(tokenizer, shared_data, tmp_path):
    data = DataArguments(
        data_path=str(shared_data / "instruct/glaive_toolcall_en_demo_sharegpt.json"), validation_fraction=0.0
    )
    made = sft_dataset(data, tokenizer, 1500, tmp_path)
    (shard,) = conversation_shards(data)
    one_by_one = [tokenize_conversation(tokenizer, one, 1500) for one in shard.conversations()]
    kept = [row for row in one_by_one if row is not None]
    assert 100 < len(kept) < 300 and any(row.truncated for row in kept)
    assert made.train["input_ids"] == [row.input_ids.tolist() for row in kept]
    assert made.train["labels"] == [row.labels.tolist() for row in kept]


def test_rows_are_made_once_and_anew_when_anything_changes(tokenizer, make, rows_file, tmp_path, gpt2_folder):
    first = make(rows_file)
    keys = {first.key}
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.arrow")}
    assert make(rows_file).key == first.key
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.arrow")} == stamps
    keys.add(make(rows_file, max_length=100).key)
    keys.add(make(rows_file, validation_fraction=0.5).key)
    keys.add(make(rows_file, columns={"messages": "messages"}).key)
    other = sft_dataset(DataArguments(data_path=str(rows_file)), load_tokenizer(gpt2_folder), 200, tmp_path / "cache")
    keys.add(other.key)
    rows_file.write_text(json.dumps(chat("new", "rows")))
    changed = make(rows_file)
    keys.add(changed.key)
    assert len(keys) == 6 and changed.counts.rows == 1


def test_what_is_half_written_is_never_used(tokenizer, make, rows_file, tmp_path):
    script = (
        "import sys, os; from hfgpt.arguments import DataArguments; from hfgpt.data import sft_rows, sft_batches\n"
        "from transformers import PreTrainedTokenizerFast; from pathlib import Path; label = sft_rows.label_batch\n"
        "tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])\n"
        "def die(tokenizer, settings, batch):\n"
        "    if batch[0]['messages'][0]['content'] == 'what is 128?': os._exit(9)\n"
        "    return label(tokenizer, settings, batch)\n"
        "sft_rows.label_batch = die\n"
        "sft_rows.sft_dataset(DataArguments(data_path=sys.argv[2]), tokenizer, 200, Path(sys.argv[3]))\n"
    )
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    arguments = [str(tmp_path / "tokenizer"), str(rows_file), str(tmp_path / "cache")]
    died = subprocess.run([sys.executable, "-c", script, *arguments], timeout=120)
    assert died.returncode == 9
    assert [path.name for path in (tmp_path / "cache").glob("*.being-written/*")] != []
    made = make(rows_file)
    assert made.counts.rows == 300 and not list((tmp_path / "cache").glob("*.being-written"))
    arrow = tmp_path / "cache" / made.key / "train.arrow"
    arrow.write_bytes(arrow.read_bytes()[:-100])
    again = make(rows_file)
    assert len(again.train) + len(again.validation) == 300


def test_of_processes_that_call_at_once_one_works_and_the_others_wait(tokenizer, rows_file, tmp_path):
    script = (
        "import sys, time; from hfgpt.arguments import DataArguments; from hfgpt.data import sft_rows\n"
        "from transformers import PreTrainedTokenizerFast; from pathlib import Path; write = sft_rows._write\n"
        "tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])\n"
        "def tell(*arguments): print('wrote'); time.sleep(1); write(*arguments)\n"
        "sft_rows._write = tell\n"
        "made = sft_rows.sft_dataset(DataArguments(data_path=sys.argv[2]), tokenizer, 200, Path(sys.argv[3]))\n"
        "print(made.key, sum(map(sum, made.train['input_ids'])))\n"
    )
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    arguments = [sys.executable, "-c", script, *map(str, (tmp_path / "tokenizer", rows_file, tmp_path / "cache"))]
    processes = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = sorted(process.communicate(timeout=120)[0].split("\n")[:-1] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(map(len, told)) == [1, 2] and len({lines[-1] for lines in told}) == 1
    assert sum("wrote" in lines for lines in told) == 1


def test_rows_do_not_depend_on_the_number_of_processes(tokenizer, tmp_path, monkeypatch):
    path = tmp_path / "many.jsonl"
    rows = [chat(f"what is {n}?", f"it is {n}.", "hm", "ho " * (1 + n % 60)) for n in range(1, 1500)]
    path.write_text("\n".join(map(json.dumps, [*rows, {"messages": []}])))
    data = DataArguments(data_path=str(path), validation_fraction=0.1)
    alone = sft_dataset(data, tokenizer, 100, tmp_path / "alone", num_proc=1)
    monkeypatch.setattr(sft_rows, "ALONE_SECONDS", 0.0)
    together = sft_dataset(data, tokenizer, 100, tmp_path / "together", num_proc=2)
    assert together.counts == alone.counts and alone.counts.left_out == {"rows_without_turns": 1}
    assert alone.counts.truncated > 0 and alone.counts.conversations == 1499
    assert together.train["input_ids"] == alone.train["input_ids"]
    assert together.validation["labels"] == alone.validation["labels"]


@pytest.mark.parametrize(
    ("rows", "max_length", "complaint"),
    [
        (
            [chat("hi"), chat("ho")],
            100,
            "No token of .*chats.jsonl is supervised.*2 without an answer.*an assistant answers",
        ),
        ([chat("hi", "ho " * 99)], 50, r"1 that lost all answers to truncation\. Raise data.max_length \(50\)"),
        ([{"text": "hi"}], 50, r"chats.jsonl: line 1: no conversation in its columns \(text\)"),
    ],
)
def test_data_that_teach_nothing_are_refused_in_one_sentence(make, tmp_path, rows, max_length, complaint):
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    for _ in range(2):  # complete rows are read again, and refused again
        with pytest.raises(UserError, match=complaint) as raised:
            make(path, max_length)
        assert "\n" not in str(raised.value)


def test_all_held_out_and_an_impossible_fraction_are_refused(make, tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(next(row for row in ROWS if is_validation(_text(row), 0.5))))
    with pytest.raises(UserError, match="held out by data.validation_fraction 0.5"):
        make(path, validation_fraction=0.5)
    with pytest.raises(UserError, match="validation_fraction is 1.0; set 0 .* below 1"):
        make(path, validation_fraction=1.0)


def _text(row: dict) -> str:
    return "".join(f"<|{message['role']}|>{message['content']}<|end|>" for message in row["messages"])


def test_a_template_that_refuses_a_conversation_names_it(tokenizer, rows_file, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    strict = load_tokenizer(tmp_path / "tokenizer", add_chat_tokens=False)
    strict.chat_template = tokenizer.chat_template.replace(
        "{{- bos_token -}}", "{%- if messages[0].content == 'what is 7?' -%}{{- raise_exception('no') -}}{%- endif -%}"
    )
    with pytest.raises(UserError, match=r"refuses the conversation that starts with 'what is 7\?' \(no\)"):
        sft_dataset(DataArguments(data_path=str(rows_file)), strict, 200, tmp_path / "cache")
    assert render(tokenizer, ROWS[7]).text.startswith("<|bos|><|user|>what is 7?")


def test_the_tiny_world_gives_rows(tokenizer, tmp_path):
    data = DataArguments(dataset="tinyworld", tinyworld_conversations=300, validation_fraction=0.1)
    made = sft_dataset(data, tokenizer, 300, tmp_path)
    assert made.counts.conversations == made.counts.rows == 300 == len(made.train) + len(made.validation)
    assert 0.1 < made.counts.supervised_tokens / made.counts.tokens < 0.9
    assert sft_dataset(data, tokenizer, 300, tmp_path).key == made.key
