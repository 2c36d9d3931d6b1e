"""Bad data ends in exit code 2 and one sentence that names the culprit, through the command as a user types it."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import sentence_of_failure

from hfgpt.cli import main

RECIPE = """
model: {depth: 2, hidden_size: 128}
tokenizer: {vocab_size: 300}
data: {max_length: 64, validation_fraction: 0.2}
pretrain: {max_steps: 1, total_batch_size: 512, per_device_train_batch_size: 8, eval_tasks: [], sample_steps: 0}
"""
TEXTS = [f"This is document number {n}, and it says that {n} is followed by {n + 1}. " * 6 for n in range(40)]


@pytest.fixture
def prepare(tmp_path, capsys):
    """`hfgpt data prepare` on one file in this process: (exit code, what it said)."""
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE)

    def run(path: Path | str, *flags: str) -> tuple[int, str]:
        words = ["data", "prepare", str(recipe), "--data_path", str(path), "--output_root", str(tmp_path / "runs")]
        code = main([*words, "--num_proc", "1", *flags])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.err.strip().splitlines()[-1] if captured.err.strip() else captured.out

    return run


def write_jsonl(path: Path, rows: list) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def good_rows() -> list[dict]:
    return [{"text": text} for text in TEXTS]


def test_good_input_is_good(prepare, tmp_path):
    code, said = prepare(write_jsonl(tmp_path / "good.jsonl", good_rows()))
    assert code == 0 and "rows in" in said


# What is wrong, and the words that the sentence must hold.
BAD_DATA = {
    "missing file": ["absent.txt"],
    "glob without a match": ["*.csv"],
    "empty folder": ["nothing"],
    "empty file": ["empty.txt"],
    "binary junk": ["junk.txt"],
    "broken UTF-8": ["broken.txt", "UTF-8"],
    "broken JSON": ["line.jsonl", "4"],
    "parquet without the column": ["column.parquet", "text", "body", "data.columns"],
    "text that is a number": ["numbers.jsonl", "6"],
    "nulls only": ["nulls.jsonl"],
    "one-character documents": ["max_length"],
    "a cut gz": ["cut.jsonl.gz"],
    "not a parquet": ["not.parquet"],
    "nothing to hold out": ["validation_fraction"],
}


def bad_file(case: str, folder: Path) -> Path:
    """A path with what `case` says is wrong."""
    if case == "missing file":
        return folder / "absent.txt"
    if case == "glob without a match":
        return folder / "*.csv"
    if case == "empty folder":
        (folder / "nothing").mkdir()
        return folder / "nothing"
    if case == "parquet without the column":
        pq.write_table(pa.table({"body": TEXTS}), folder / "column.parquet")
        return folder / "column.parquet"
    rows = {
        "broken JSON": ("line.jsonl", [*good_rows()[:3], '{"text": "broken', *good_rows()]),
        "text that is a number": ("numbers.jsonl", [*good_rows()[:5], {"text": 17}]),
        "nulls only": ("nulls.jsonl", [{"text": None}] * 5),
        "one-character documents": ("short.jsonl", [{"text": chr(n)} for n in range(97, 123)]),
    }
    raw = {
        "empty file": ("empty.txt", b""),
        "binary junk": ("junk.txt", bytes(range(256)) * 400),
        "broken UTF-8": ("broken.txt", b"Gut. " * 20_000 + b"\xe4\xf6 latin" + b" more" * 100),
        "a cut gz": ("cut.jsonl.gz", b"\x1f\x8b\x08\x00" + b"\x00" * 30),
        "not a parquet": ("not.parquet", b"PAR1 but nothing of the kind"),
        "nothing to hold out": ("one.txt", TEXTS[0].encode()),
    }
    if case in rows:
        name, lines = rows[case]
        return write_jsonl(folder / name, lines)
    name, content = raw[case]
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_refused_in_one_sentence(prepare, tmp_path, case):
    folder = tmp_path / "in"
    folder.mkdir()
    code, said = prepare(bad_file(case, folder))
    assert code == 2, said
    assert said.startswith("hfgpt: ")
    for word in BAD_DATA[case]:
        assert word in said


def test_nothing_is_left_half_made(prepare, tmp_path):
    path = write_jsonl(tmp_path / "line.jsonl", [*good_rows(), "{broken"])
    assert prepare(path)[0] == 2
    write_jsonl(path, good_rows())
    assert prepare(path)[0] == 0


def test_a_document_longer_than_everything_is_split_not_lost(prepare, tmp_path):
    long = {"text": " ".join(TEXTS) * 20}
    code, said = prepare(write_jsonl(tmp_path / "long.jsonl", [long, *good_rows()]), "--shard_size", "2000")
    assert code == 0
    assert "longer than a row" in said


def test_rows_without_text_are_left_out_and_counted(prepare, tmp_path):
    rows = [*good_rows(), {"text": None}, {"text": ""}, {"text": None}]
    code, said = prepare(write_jsonl(tmp_path / "some.jsonl", rows))
    assert code == 0
    assert "rows without text" in said


def test_a_tokenizer_made_with_other_settings_is_not_reused(prepare, tmp_path):
    path = write_jsonl(tmp_path / "good.jsonl", good_rows())
    assert prepare(path)[0] == 0
    code, said = prepare(path, "--vocab_size", "310")
    assert code == 2
    assert "vocab_size 300, not 310" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("hfgpt", "pretrain", "recipes/tiny.yaml", "--max_step", "3"), "--max_steps"),
        (("python", "-m", "hfgpt.pretrain", "recipes/tiny.yaml", "--optim", "muonn"), "muonn"),
        (("python", "hfgpt/pretrain.py", "nowhere.yaml"), "nowhere.yaml"),
        (("hfgpt", "plan", "recipes/tiny.yaml", "--depth", "0"), "depth"),
        (("hfgpt", "data", "prepare", "recipes/tiny.yaml", "--data_path", "nowhere"), "nowhere"),
    ],
    ids=["flag", "value", "recipe", "shape", "data"],
)
def test_real_processes_end_with_code_2_and_one_sentence(words, expected, tmp_path):
    root = ("--output_root", tmp_path) if "plan" not in words else ()
    assert expected in sentence_of_failure(*words, *root)
