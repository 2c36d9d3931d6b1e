"""The streaming road gives the prepared road's rows, resumes exactly, and never shows a held-out document."""

import json
import pickle
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader
from torch.utils.data._utils import worker

from hfgpt.arguments import DataArguments
from hfgpt.data import local_files
from hfgpt.data.preparation import prepare_data
from hfgpt.data.rows import collate_rows
from hfgpt.data.splitting import is_validation
from hfgpt.data.stream import StreamedRows
from hfgpt.data.tinyworld import TinyWorld
from hfgpt.data.tokenizer import load_tokenizer, train_tokenizer
from hfgpt.errors import UserError


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(TinyWorld(num_people=50, seed=1).documents(600))


@pytest.fixture(scope="module")
def tokenizer_folder(texts, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(texts[:300], vocab_size=600).save_pretrained(folder)
    return folder


@pytest.fixture
def data(texts, tmp_path, monkeypatch) -> DataArguments:
    monkeypatch.setattr(local_files, "SHARD_BYTES", 1)  # every file is a shard
    (tmp_path / "text").mkdir()
    for number, part in enumerate(np.array_split(np.array(texts, dtype=object), 5)):
        lines = [json.dumps({"text": text}) + "\n" for text in part]
        (tmp_path / f"text/{number}.jsonl").write_text("".join(lines))
    return DataArguments(
        data_path=str(tmp_path / "text"),
        max_length=128,
        validation_fraction=0.1,
        shard_size=6000,
        shuffle_window=50,
        streaming=True,
        num_proc=1,
    )


def given(rows) -> list[tuple[int, ...]]:
    return [tuple(row["input_ids"].tolist()) for row in rows]


def beginnings(rows, bos_token_id: int) -> set[tuple[int, ...]]:
    """The first 50 tokens of every piece that is as long."""
    flat = np.array(rows).reshape(-1)
    pieces = [piece[1:51].tolist() for piece in np.split(flat, np.flatnonzero(flat == bos_token_id))]
    return {tuple(piece) for piece in pieces if len(piece) == 50}


def document_beginnings(texts: list[str], tokenizer) -> set[tuple[int, ...]]:
    return {tuple(tokenizer(text, add_special_tokens=False).input_ids[:50]) for text in texts}


def test_an_epoch_streams_exactly_the_prepared_rows(data, tokenizer_folder, tmp_path):
    prepared = prepare_data(replace(data, streaming=False), tokenizer_folder, tmp_path / "out")
    rows = [tuple(row) for row in prepared.train()["input_ids"]]
    streamed = given(StreamedRows(data, tokenizer_folder, total_rows=2 * len(rows)))
    first, second = streamed[: len(rows)], streamed[len(rows) :]
    assert sorted(first) == sorted(second) == sorted(rows)
    assert len(rows) > 500 and len(set(rows)) == len(rows)
    same_place = sum(a == b for a, b in zip(first, second, strict=True))
    assert first != rows and same_place < 0.05 * len(rows)


def test_order_depends_on_the_seed_and_on_nothing_else(data, tokenizer_folder):
    first = given(StreamedRows(data, tokenizer_folder, total_rows=120))
    assert given(StreamedRows(data, tokenizer_folder, total_rows=120)) == first
    assert given(islice(StreamedRows(data, tokenizer_folder), 120)) == first
    assert given(StreamedRows(replace(data, num_proc=2), tokenizer_folder, total_rows=120)) == first
    assert given(StreamedRows(replace(data, seed=1), tokenizer_folder, total_rows=120)) != first


def test_resuming_gives_exactly_the_rows_that_would_have_come(data, tokenizer_folder, texts):
    whole = given(StreamedRows(data, tokenizer_folder, total_rows=1400))  # into the third epoch
    for position in (0, 49, 50, 333, 1400):
        stopped = StreamedRows(data, tokenizer_folder, total_rows=1400)
        consumed = given(islice(stopped, position))
        state = json.loads(json.dumps(stopped.state_dict()))
        assert consumed == whole[:position] and state["position"] == position
        resumed = StreamedRows(data, tokenizer_folder, total_rows=1400)
        resumed.load_state_dict(state)
        assert given(resumed) == whole[position:]


def test_state_of_the_step_is_known_though_the_loader_read_ahead(data, tokenizer_folder):
    whole = given(StreamedRows(data, tokenizer_folder, total_rows=400))
    for num_workers in (0, 1):
        rows = StreamedRows(data, tokenizer_folder, total_rows=400)
        loader = DataLoader(rows, batch_size=8, num_workers=num_workers, collate_fn=collate_rows(0))
        batches = iter(loader)
        consumed = [tuple(row) for _ in range(20) for row in next(batches)["input_ids"].tolist()]
        assert consumed == whole[:160]
        state = rows.state_dict(position=160)
        assert 0 < state["first_row"] <= 160 and state["position"] == 160
        del batches
        resumed = StreamedRows(data, tokenizer_folder, total_rows=400)
        resumed.load_state_dict(state)
        assert given(resumed) == whole[160:]


def test_resuming_reads_the_current_block_and_not_the_text_before_it(data, tokenizer_folder, monkeypatch):
    stopped = StreamedRows(data, tokenizer_folder, total_rows=500)
    given(stopped)
    resumed = StreamedRows(data, tokenizer_folder, total_rows=510)
    resumed.load_state_dict(stopped.state_dict())
    encoded = []
    encode = resumed.encoder.encode
    resumed.encoder.encode = lambda texts: encoded.extend(texts) or encode(texts)
    assert len(given(resumed)) == 10
    assert 0 < len(encoded) <= 240  # of 500 rows' text: the rest of at most two shards


def test_held_out_documents_never_come_up(data, texts, tokenizer_folder):
    tokenizer = load_tokenizer(tokenizer_folder)
    held_out = [text for text in texts if is_validation(text, data.validation_fraction)]
    trained = [text for text in texts if text not in held_out]
    found = beginnings(given(StreamedRows(data, tokenizer_folder, total_rows=900)), tokenizer.bos_token_id)
    assert len(held_out) > 30 and not found & document_beginnings(held_out, tokenizer)
    expected = document_beginnings(trained, tokenizer)
    assert len(found & expected) > 0.8 * len(expected)  # the others are cut, or were dropped


def test_validation_of_a_stream_is_the_first_held_out_text(data, texts, tokenizer_folder, tmp_path):
    data = replace(data, validation_tokens=2560)
    prepared = prepare_data(data, tokenizer_folder, tmp_path / "out")
    tokenizer = load_tokenizer(tokenizer_folder)
    held_out = [text for text in texts if is_validation(text, data.validation_fraction)]
    found = beginnings(prepared.validation()["input_ids"], tokenizer.bos_token_id)
    assert len(prepared.validation()) == 20 and prepared.train_rows is None
    chosen = prepared.statistics["validation"]["documents"]
    assert 10 < chosen < len(held_out) / 2
    assert len(found & document_beginnings(held_out[:chosen], tokenizer)) > 0.8 * chosen
    assert not found & document_beginnings(held_out[chosen:], tokenizer)
    again = prepare_data(data, tokenizer_folder, tmp_path / "out")
    assert again.validation()[:] == prepared.validation()[:]
    with pytest.raises(UserError, match="validation rows only"):
        prepared.train()


def test_several_loader_processes_are_refused(data, tokenizer_folder, monkeypatch):
    # What torch sets in a loader's process; the processes themselves take ten seconds to end after an error.
    process = worker.WorkerInfo(id=0, num_workers=2, seed=0, dataset=None)
    monkeypatch.setattr(worker, "_worker_info", process)
    with pytest.raises(UserError, match="dataloader_num_workers is 2"):
        next(iter(StreamedRows(data, tokenizer_folder, total_rows=9)))


def test_text_without_a_row_is_refused(data, tokenizer_folder):
    with pytest.raises(UserError, match="gives no row of data.max_length 100000"):
        next(iter(StreamedRows(replace(data, max_length=10**5, shard_size=10**6), tokenizer_folder)))


def test_a_stream_can_be_pickled(data, tokenizer_folder):
    rows = pickle.loads(pickle.dumps(StreamedRows(data, tokenizer_folder, total_rows=30)))
    assert given(rows) == given(StreamedRows(data, tokenizer_folder, total_rows=30))
