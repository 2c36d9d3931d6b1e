"""Preparing rows on disk: everything is accounted for, restartable, cached by what went into it, flat in memory."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from datasets import List, Value, load_from_disk

from hfgpt.arguments import DataArguments
from hfgpt.data import local_files, preparation, shard_workers
from hfgpt.data.blocks import BlockSettings, content_hash
from hfgpt.data.preparation import prepare_data
from hfgpt.data.preparation_plan import plan_preparation
from hfgpt.data.prepared import damaged_files, open_prepared, tokenizer_identity, write_rows, write_split
from hfgpt.data.splitting import is_validation
from hfgpt.data.tinyworld import TinyWorld
from hfgpt.data.tokenizer import load_tokenizer, train_tokenizer
from hfgpt.errors import UserError

PREPARE = """
import json, sys
from pathlib import Path
from hfgpt.arguments import DataArguments
from hfgpt.data import local_files
from hfgpt.data.preparation import prepare_data
local_files.SHARD_BYTES = 300_000
if __name__ == "__main__":
    prepare_data(DataArguments(**json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(TinyWorld(num_people=50, seed=1).documents(2000))


@pytest.fixture(scope="module")
def tokenizer_folder(texts, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(texts[:500], vocab_size=600).save_pretrained(folder)
    return folder


def write_texts(folder: Path, texts: list[str], num_files: int = 6) -> Path:
    folder.mkdir()
    for number, part in enumerate(np.array_split(np.array(texts, dtype=object), num_files)):
        lines = [json.dumps({"text": text}) + "\n" for text in part]
        (folder / f"{number}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(autouse=True)
def every_file_is_a_shard(monkeypatch):
    monkeypatch.setattr(local_files, "SHARD_BYTES", 1)


@pytest.fixture
def data(texts, tmp_path) -> DataArguments:
    return DataArguments(
        data_path=str(write_texts(tmp_path / "text", texts)),
        max_length=256,
        validation_fraction=0.05,
        shard_size=20_000,
        num_proc=1,
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tokens_in(rows) -> np.ndarray:
    return rows.with_format("numpy")[:]["input_ids"].reshape(-1)


def pieces_in(rows, bos_token_id: int) -> list[list[int]]:
    """The documents and pieces of documents in the rows, without BOS."""
    flat = tokens_in(rows)
    return [piece[1:].tolist() for piece in np.split(flat, np.flatnonzero(flat == bos_token_id))[1:]]


def are_within(pieces: list[list[int]], documents: list[list[int]]) -> bool:
    """Whether each piece is a run of tokens of one of the documents."""
    text = "|".join(f",{','.join(map(str, ids))}," for ids in documents)
    return all(f",{','.join(map(str, piece))}," in text for piece in pieces if piece)


def test_every_token_of_the_text_is_in_the_rows_once_or_counted_as_dropped(data, texts, tokenizer_folder, tmp_path):
    prepared = prepare_data(data, tokenizer_folder, tmp_path / "out")
    tokenizer = load_tokenizer(tokenizer_folder)
    held_out = {text for text in texts if is_validation(text, data.validation_fraction)}
    train_texts = [text for text in texts if text not in held_out]
    expected = {
        "train": [tokenizer(text, add_special_tokens=False).input_ids for text in train_texts],
        "validation": [tokenizer(text, add_special_tokens=False).input_ids for text in held_out],
    }
    assert len(held_out) > 80 and prepared.statistics["documents"] == len(texts)
    for split, rows in (("train", prepared.train()), ("validation", prepared.validation())):
        counts = prepared.statistics[split]
        tokens = [token for ids in expected[split] for token in ids]
        assert counts["rows"] == len(rows) and counts["documents"] == len(expected[split])
        assert counts["tokens"] == len(tokens)
        assert counts["tokens"] + counts["bos_tokens"] == counts["rows"] * 256 + counts["dropped_tokens"]
        found = np.bincount(tokens_in(rows), minlength=len(tokenizer))
        wanted = np.bincount(tokens, minlength=len(tokenizer))
        found[tokenizer.bos_token_id] -= counts["bos_tokens"]
        assert (found <= wanted).all() and (wanted - found).sum() == counts["dropped_tokens"]
        blocks = len(list((prepared.path / "blocks").glob("*.json"))) if split == "train" else 1
        assert counts["dropped_tokens"] < blocks * 256
    train_bytes = sum(len(text.encode()) for text in train_texts)
    assert prepared.statistics["train"]["text_bytes"] == train_bytes
    assert prepared.bytes_per_token == train_bytes / prepared.statistics["train"]["tokens"]
    # Every piece in the rows is of a document of that split, and of none of the other split.
    bos = tokenizer.bos_token_id
    assert are_within(pieces_in(prepared.validation(), bos), expected["validation"])
    assert are_within(pieces_in(prepared.train(), bos)[:500], expected["train"])
    assert not {tuple(ids) for ids in expected["validation"]} & {
        tuple(piece) for piece in pieces_in(prepared.train(), bos)
    }


def test_rows_are_memory_mapped_datasets_of_small_integers(data, tokenizer_folder, tmp_path):
    prepared = prepare_data(data, tokenizer_folder, tmp_path / "out")
    for split, rows in (("train", prepared.train()), ("validation", prepared.validation())):
        opened = load_from_disk(prepared.path / split)
        assert opened.features == {"input_ids": List(Value("uint16"), length=256)}
        assert opened[:]["input_ids"] == rows[:]["input_ids"]
        assert {Path(file["filename"]).parent.name for file in rows.cache_files} == {split}
    assert prepared.train_rows == len(prepared.train())
    large = BlockSettings(8, 100, 0, 70_000, 1, 0.0, 100)
    name = write_rows(tmp_path / "large" / "0.arrow", np.full((3, 8), 69_999, dtype=large.token_type)) and "0.arrow"
    write_split(tmp_path / "large", [name], 8, large.token_type, "fingerprint")
    assert load_from_disk(tmp_path / "large")["input_ids"][2] == [69_999] * 8


def test_complete_data_is_reused_and_anything_that_decides_a_row_gives_another_folder(
    data, texts, tokenizer_folder, tmp_path
):
    first = prepare_data(data, tokenizer_folder, tmp_path / "out")
    written = (first.path / "prepared.json").stat().st_mtime_ns
    again = prepare_data(replace(data, num_proc=2), tokenizer_folder, tmp_path / "out")
    assert again == first and (again.path / "prepared.json").stat().st_mtime_ns == written

    def key(data: DataArguments, folder: Path = tokenizer_folder) -> Path:
        return plan_preparation(data, folder, tokenizer_identity(folder), tmp_path / "out").folder

    assert key(data) == first.path
    folders = {first.path}
    for changed in (
        replace(data, max_length=128),
        replace(data, validation_fraction=0.06),
        replace(data, validation_tokens=2000),
        replace(data, min_document_chars=50),
        replace(data, shard_size=30_000),
        replace(data, tokens_threshold=30_000),
    ):
        folders.add(key(changed))
    other_tokenizer = tmp_path / "other"
    train_tokenizer(texts[:500], vocab_size=500).save_pretrained(other_tokenizer)
    folders.add(key(data, other_tokenizer))
    file = Path(str(data.data_path)) / "3.jsonl"
    file.write_text(file.read_text().replace("a", "o", 1))
    folders.add(key(data))
    assert len(folders) == 9
    changed = prepare_data(data, tokenizer_folder, tmp_path / "out")
    assert changed.path in folders - {first.path} and changed.train()[:] != first.train()[:]


def test_processes_change_nothing_but_time(data, tokenizer_folder, tmp_path, monkeypatch):
    alone = prepare_data(data, tokenizer_folder, tmp_path / "alone")
    monkeypatch.setattr(preparation, "_ALONE_SECONDS", 0.0)
    together = prepare_data(replace(data, num_proc=3), tokenizer_folder, tmp_path / "together")
    assert files_of(together.path) == files_of(alone.path)
    limited = replace(data, tokens_threshold=100_000)
    alone = prepare_data(limited, tokenizer_folder, tmp_path / "alone")
    together = prepare_data(replace(limited, num_proc=3), tokenizer_folder, tmp_path / "together")
    assert together.statistics == alone.statistics
    assert together.train()[:] == alone.train()[:] and together.validation()[:] == alone.validation()[:]


def test_tokens_threshold_stops_at_that_many_tokens_of_the_first_text(data, tokenizer_folder, tmp_path):
    whole = prepare_data(data, tokenizer_folder, tmp_path / "out")
    limited = prepare_data(replace(data, tokens_threshold=100_000), tokenizer_folder, tmp_path / "out")
    assert limited.train_rows == -(-100_000 // 256)
    counts = limited.statistics["train"]
    used = counts["rows"] * 256 + counts["dropped_tokens"] + counts["beyond_tokens"]
    assert counts["tokens"] + counts["bos_tokens"] == used and counts["beyond_tokens"] < data.shard_size
    assert limited.train()[:77] == whole.train()[:77]  # the first block, 20,000 tokens, is the same
    little = prepare_data(replace(data, tokens_threshold=10_000), tokenizer_folder, tmp_path / "out")
    assert little.train_rows == 40 and little.statistics["train"]["tokens"] < 10_000 + 3 * 256
    more_than_there_is = prepare_data(replace(data, tokens_threshold=10**7), tokenizer_folder, tmp_path / "out")
    assert more_than_there_is.statistics == whole.statistics
    shards = {name.split("-")[0] for name in os.listdir(limited.path / "blocks")}
    assert len(shards) <= 3 < len({name.split("-")[0] for name in os.listdir(whole.path / "blocks")})


def test_a_killed_run_goes_on_from_its_last_complete_block(data, tokenizer_folder, tmp_path):
    data = replace(data, shard_size=4000)
    arguments = json.dumps({key: value for key, value in vars(data).items() if value is not None})
    script = tmp_path / "prepare.py"
    script.write_text(PREPARE.replace("300_000", "1"))
    run = subprocess.Popen([sys.executable, script, arguments, tokenizer_folder, tmp_path / "out"])
    deadline = time.monotonic() + 60
    while len(marks := list((tmp_path / "out").glob("*/blocks/*.json"))) < 5:
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    run.wait()
    folder = marks[0].parents[1]
    assert not (folder / "prepared.json").exists()
    marks = sorted((folder / "blocks").glob("*.json"))
    written = {mark: mark.stat().st_mtime_ns for mark in marks}
    # What a kill in the middle of a write leaves, and a mark whose rows are not all there.
    (folder / "train" / "00005-00000.arrow.77-1.tmp").write_bytes(b"half")
    (folder / "blocks" / "00005-00000.json.77-1.tmp").write_bytes(b'{"shard"')
    rows = folder / "train" / marks[-1].with_suffix(".arrow").name
    rows.write_bytes(rows.read_bytes()[:-100])

    resumed = prepare_data(data, tokenizer_folder, tmp_path / "out")
    assert resumed.path == folder
    assert all(mark.stat().st_mtime_ns == written[mark] for mark in marks[:-1])
    assert marks[-1].stat().st_mtime_ns != written[marks[-1]]
    whole = prepare_data(data, tokenizer_folder, tmp_path / "uninterrupted")
    assert {name: data for name, data in files_of(folder).items() if ".tmp" not in name} == files_of(whole.path)


@pytest.mark.parametrize("name", ["train/00002-00000.arrow", "validation/00000.arrow", "prepared.json"])
def test_a_damaged_folder_is_noticed_and_mended(data, tokenizer_folder, tmp_path, name):
    prepared = prepare_data(data, tokenizer_folder, tmp_path / "out")
    before = files_of(prepared.path)
    (prepared.path / name).write_bytes(before[name][:-50])
    assert open_prepared(prepared.path) is None
    assert prepare_data(data, tokenizer_folder, tmp_path / "out").path == prepared.path
    assert files_of(prepared.path) == before
    assert damaged_files(prepared) == []
    rows = bytearray(before["train/00000-00000.arrow"])
    rows[-500] ^= 1
    (prepared.path / "train/00000-00000.arrow").write_bytes(rows)
    assert damaged_files(prepared) == ["train/00000-00000.arrow"]


def test_of_two_processes_one_prepares_and_the_other_waits(data, tokenizer_folder, tmp_path):
    data = replace(data, shard_size=4000)
    arguments = json.dumps({key: value for key, value in vars(data).items() if value is not None})
    script = tmp_path / "prepare.py"
    script.write_text(PREPARE)
    command = [sys.executable, script, arguments, tokenizer_folder, tmp_path / "out"]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [run.communicate(timeout=60)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    (folder,) = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    record = open_prepared(folder).record
    assert damaged_files(open_prepared(folder)) == [] and record["statistics"]["train"]["rows"] > 0
    # Whoever came second touched nothing: prepared.json is the last thing that was written.
    assert max(folder.rglob("*"), key=lambda path: path.stat().st_mtime_ns).name in ("prepared.json", folder.name)


def test_validation_rows_are_the_smallest_hashes_of_all_shards(data, texts, tokenizer_folder, tmp_path):
    data = replace(data, validation_tokens=6400)
    prepared = prepare_data(data, tokenizer_folder, tmp_path / "out")
    rows, counts = prepared.validation(), prepared.statistics["validation"]
    assert len(rows) == counts["rows"] == 6400 // 256
    left_off = counts["dropped_tokens"] + counts["beyond_tokens"]
    assert counts["tokens"] + counts["bos_tokens"] == len(rows) * 256 + left_off
    tokenizer = load_tokenizer(tokenizer_folder)
    held_out = sorted((text for text in texts if is_validation(text, 0.05)), key=content_hash)
    first = [tokenizer(text, add_special_tokens=False).input_ids for text in held_out[: counts["documents"]]]
    assert len(held_out) > 2 * len(first) > 0
    assert are_within(pieces_in(rows, tokenizer.bos_token_id), first)
    # Another cut into files and blocks holds out, and chooses, the same documents.
    data = replace(data, data_path=str(write_texts(tmp_path / "turned", texts[::-1], num_files=2)), shard_size=7000)
    turned = prepare_data(data, tokenizer_folder, tmp_path / "out")
    assert turned.path != prepared.path and turned.validation()[:] == rows[:]


def test_no_validation_is_a_choice(data, tokenizer_folder, tmp_path):
    prepared = prepare_data(replace(data, validation_fraction=0.0), tokenizer_folder, tmp_path / "out")
    assert len(prepared.validation()) == 0 and prepared.statistics["train"]["documents"] == 2000
    assert prepared.validation().features == prepared.train().features


def test_documents_left_out_are_counted(data, tokenizer_folder, tmp_path):
    file = Path(str(data.data_path)) / "0.jsonl"
    file.write_text(file.read_text() + '{"text": null}\n{"text": "ab"}\n{"text": "  "}\n')
    prepared = prepare_data(replace(data, min_document_chars=3), tokenizer_folder, tmp_path / "out")
    assert prepared.statistics["too_short"] == 1
    assert prepared.statistics["left_out"] == {"rows_without_text": 2}
    assert "left out: 1 shorter than data.min_document_chars, 2 rows without text" in prepared.summary()
    assert "0% padded" in prepared.summary()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 1e-9}, r"None of the 2000 documents was held out.*data.validation_fraction"),
        ({"validation_fraction": 0.999999999}, "All of the 2000 documents were held out.*data.validation_fraction"),
        ({"min_document_chars": 10**6}, "has no document.*2000 shorter than data.min_document_chars"),
        ({"max_length": 400_000, "shard_size": 400_000, "validation_fraction": 0.0}, r"train split has \d+ tokens"),
        (
            {"max_length": 40_000, "shard_size": 40_000},
            r"validation split has \d+ tokens in \d+ documents.*lower data.max_length",
        ),
        ({"max_length": 1}, "data.max_length is 1"),
        ({"shard_size": 255}, "data.shard_size is 255"),
        ({"validation_fraction": 1.5}, "data.validation_fraction is 1.5"),
        ({"validation_tokens": 5}, "data.validation_tokens is 5"),
        ({"tokens_threshold": 0}, "data.tokens_threshold is 0"),
        ({"tokens_threshold": 9, "streaming": True}, "data.tokens_threshold .* data.streaming"),
        ({"num_proc": 0}, "data.num_proc is 0"),
    ],
)
def test_what_cannot_be_is_one_sentence(data, tokenizer_folder, tmp_path, options, message):
    with pytest.raises(UserError, match=message) as error:
        prepare_data(replace(data, **options), tokenizer_folder, tmp_path / "out")
    assert "\n" not in str(error.value)


def test_text_that_a_worker_cannot_read_is_the_users_to_mend(data, tokenizer_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "_ALONE_SECONDS", 0.0)
    file = Path(str(data.data_path)) / "4.jsonl"
    file.write_text('{"text": "right"}\n{"text": broken}\n')
    with pytest.raises(UserError, match=r"4\.jsonl.*line 2"):
        prepare_data(replace(data, num_proc=2), tokenizer_folder, tmp_path / "out")


def test_rows_prepared_before_are_taken_only_if_they_fit(data, texts, tokenizer_folder, tmp_path):
    prepared = prepare_data(data, tokenizer_folder, tmp_path / "out")
    taken = prepare_data(DataArguments(prepared=str(prepared.path), max_length=256), tokenizer_folder, tmp_path / "x")
    assert taken == prepared and not (tmp_path / "x").exists()
    own = prepare_data(
        DataArguments(prepared=str(prepared.path), max_length=256), prepared.path / "tokenizer", tmp_path
    )
    assert own == prepared
    with pytest.raises(UserError, match="256 tokens, but data.max_length is 128"):
        prepare_data(DataArguments(prepared=str(prepared.path), max_length=128), tokenizer_folder, tmp_path)
    train_tokenizer(texts[:500], vocab_size=500).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="made with another tokenizer"):
        prepare_data(DataArguments(prepared=str(prepared.path), max_length=256), tmp_path / "other", tmp_path)
    (prepared.path / "prepared.json").unlink()
    with pytest.raises(UserError, match="no complete prepared data"):
        prepare_data(DataArguments(prepared=str(prepared.path), max_length=256), tokenizer_folder, tmp_path)


def test_a_folder_that_is_no_tokenizer_is_the_users_to_mend(data, tmp_path):
    with pytest.raises(UserError, match="is no saved tokenizer"):
        prepare_data(data, tmp_path, tmp_path / "out")


def peak_private_memory(command: list) -> int:
    """Peak USS in bytes of a process and its children, looked at every 20 ms."""
    run = subprocess.Popen(command)
    process, peak = psutil.Process(run.pid), 0
    while run.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            peak = max(peak, sum(member.memory_full_info().uss for member in family))
        except psutil.Error:  # one of them has just ended
            pass
        time.sleep(0.02)
    assert run.returncode == 0
    return peak


@pytest.mark.slow
def test_private_memory_is_flat_in_the_size_of_the_text(texts, tokenizer_folder, tmp_path):
    script = tmp_path / "prepare.py"
    script.write_text(PREPARE)
    peaks = []
    for times in (4, 40):
        folder = tmp_path / f"{times}"
        folder.mkdir()
        with (folder / "text.jsonl").open("w") as file:
            file.writelines(json.dumps({"text": f"{i} {text}"}) + "\n" for i in range(times) for text in texts)
        options = {"data_path": str(folder), "max_length": 256, "shard_size": 200_000, "num_proc": 1}
        peaks.append(
            peak_private_memory([sys.executable, script, json.dumps(options), tokenizer_folder, folder / "out"])
        )
    assert peaks[0] > 10e6 and peaks[1] < 1.1 * peaks[0], peaks


def test_a_worker_that_dies_is_named_and_its_shard_can_be_prepared_later(
    data, tokenizer_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(preparation, "_ALONE_SECONDS", 0.0)
    data = replace(data, shard_size=1000)
    start = shard_workers._Worker.__init__

    def start_and_kill(worker, job):
        start(worker, job)
        worker.process.kill()

    with monkeypatch.context() as patched:
        patched.setattr(shard_workers._Worker, "__init__", start_and_kill)
        with pytest.raises(RuntimeError, match=r"a process preparing \d.jsonl ended with code -9"):
            prepare_data(replace(data, num_proc=2), tokenizer_folder, tmp_path / "out")
    prepared = prepare_data(replace(data, num_proc=2), tokenizer_folder, tmp_path / "out")
    assert files_of(prepared.path) == files_of(prepare_data(data, tokenizer_folder, tmp_path / "alone").path)
