"""The order of a run and the collation of packed rows."""

import pickle

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset, Features, List, Value, concatenate_datasets
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from hfgpt.data.order import RunOrder
from hfgpt.data.rows import OrderedRows, collate_rows, row_order

BOS = 0
FEATURES = Features({"input_ids": List(Value("uint16"), length=6)})


def numbered_rows(count: int, start: int = 0) -> Dataset:
    """Row i is [BOS, i, i, BOS, i, i], so that a row tells its number."""
    rows = [[BOS, i + 1, i + 1, BOS, i + 1, i + 1] for i in range(start, start + count)]
    return Dataset.from_dict({"input_ids": rows}, features=FEATURES)


def row_numbers(batch: dict[str, torch.Tensor]) -> list[int]:
    return (batch["input_ids"][:, 1] - 1).tolist()


@pytest.mark.parametrize("num_rows", [1, 2, 3, 7, 64, 1000, 99_991])
def test_each_epoch_visits_every_row_exactly_once(num_rows):
    for epoch in range(3):
        positions = np.arange(epoch * num_rows, (epoch + 1) * num_rows)
        assert np.array_equal(np.sort(row_order(positions, num_rows, seed=1)), np.arange(num_rows))


def test_order_differs_between_seeds_and_between_epochs():
    positions = np.arange(1000)
    first = row_order(positions, 1000, seed=1)
    assert np.mean(first == row_order(positions, 1000, seed=2)) < 0.02
    assert np.mean(first == row_order(positions + 1000, 1000, seed=1)) < 0.02


def test_steps_have_the_same_rows_on_any_number_of_processes_across_the_end_of_an_epoch():
    """100 rows, 16 a step: the seventh step ends the first epoch and begins the second."""
    steps: dict[int, list[set[int]]] = {}
    for processes in (1, 2, 4):
        batches = BatchSampler(RunOrder(100, 10 * 16, seed=1), 16 // processes, drop_last=False)
        shards = [list(BatchSamplerShard(batches, processes, index)) for index in range(processes)]
        steps[processes] = [set().union(*step) for step in zip(*shards, strict=True)]
    assert len(steps[1]) == 10 and steps[1] == steps[2] == steps[4]
    order = list(RunOrder(100, 10 * 16, seed=1))
    assert sorted(order[:100]) == list(range(100)) and order == row_order(np.arange(160), 100, seed=1).tolist()


def test_order_looks_random():
    num_rows = 20_000
    order = row_order(np.arange(num_rows), num_rows, seed=3)
    for lag in (1, 2, 3, 141, 142):  # 142 is the side of the Feistel square
        assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < 4 / np.sqrt(num_rows)
    # Of the first half of the positions, half the rows come from the first half: sd is 35 of 5,000.
    assert abs(np.count_nonzero(order[: num_rows // 2] < num_rows // 2) - num_rows // 4) < 4 * 36


def test_order_needs_no_memory_that_grows_with_the_rows():
    rows = row_order(np.array([0, 1, 10**15]), 10**15, seed=0)
    assert len(set(rows.tolist())) == 3 and rows.min() >= 0 and rows.max() < 10**15


def test_order_of_a_seed_never_changes_between_versions():
    assert row_order(np.arange(8), 8, seed=42).tolist() == [2, 6, 3, 1, 5, 4, 0, 7]


def test_rows_are_the_same_for_every_partition_into_batches():
    rows = OrderedRows(numbered_rows(11), seed=5, total_rows=29)
    one_by_one = [int(rows[p]["input_ids"][1]) - 1 for p in range(29)]
    for batch_size in (1, 4, 29):
        loader = DataLoader(rows, batch_size=batch_size, sampler=SequentialSampler(rows), collate_fn=collate_rows(BOS))
        assert [number for batch in loader for number in row_numbers(batch)] == one_by_one
    assert one_by_one == row_order(np.arange(29), 11, seed=5).tolist()


def test_rows_come_out_of_several_record_batches_and_selections():
    rows = concatenate_datasets([numbered_rows(3), numbered_rows(4, start=3), numbered_rows(2, start=7)])
    in_order = OrderedRows(rows, seed=None, total_rows=18)
    assert [int(in_order[p]["input_ids"][1]) - 1 for p in range(18)] == list(range(9)) * 2
    prefix = OrderedRows(rows.select(range(2, 6)), seed=None, total_rows=4)
    assert [int(prefix[p]["input_ids"][1]) - 1 for p in range(4)] == [2, 3, 4, 5]
    picked = OrderedRows(rows.select([8, 0, 5]), seed=None, total_rows=3)
    assert [int(picked[p]["input_ids"][1]) - 1 for p in range(3)] == [8, 0, 5]


def test_rows_survive_pickling_and_loader_processes(tmp_path):
    numbered_rows(10).save_to_disk(tmp_path / "rows")
    rows = OrderedRows(Dataset.load_from_disk(tmp_path / "rows"), seed=1, total_rows=20)
    first = [int(rows[p]["input_ids"][1]) for p in range(20)]
    copy = pickle.loads(pickle.dumps(rows))
    assert [int(copy[p]["input_ids"][1]) for p in range(20)] == first
    loader = DataLoader(rows, batch_size=4, num_workers=2, collate_fn=collate_rows(BOS))
    assert [number + 1 for batch in loader for number in row_numbers(batch)] == first


def test_position_outside_the_run_raises():
    rows = OrderedRows(numbered_rows(3), seed=1, total_rows=5)
    with pytest.raises(IndexError):
        rows[5]
    with pytest.raises(ValueError, match="no rows"):
        OrderedRows(numbered_rows(0), seed=1, total_rows=5)


def test_collator_gives_int64_labels_and_positions_that_restart():
    features = [{"input_ids": np.array(row, dtype=np.uint16)} for row in ([0, 7, 8, 0, 9], [5, 6, 0, 0, 65535])]
    batch = pickle.loads(pickle.dumps(collate_rows(BOS)))(features)
    assert {key: value.dtype for key, value in batch.items()} == dict.fromkeys(
        ("input_ids", "labels", "position_ids"), torch.int64
    )
    assert batch["input_ids"].tolist() == batch["labels"].tolist() == [[0, 7, 8, 0, 9], [5, 6, 0, 0, 65535]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 0, 1]]
    assert batch["labels"].data_ptr() != batch["input_ids"].data_ptr()
    assert set(collate_rows(BOS, cross_document_attention=True)(features)) == {"input_ids", "labels"}


def test_sequence_lengths_bound_the_documents_of_a_flattened_batch():
    features = [{"input_ids": np.array(row, dtype=np.uint16)} for row in ([0, 7, 8, 0, 9], [5, 6, 0, 0, 65535])]
    batch = collate_rows(BOS, with_lengths=True)(features)
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 5, 7, 8] + [10] * 12  # 5 sequences, 11 empty ones
    assert batch["cu_seq_lens_k"].dtype == torch.int32
    assert batch["max_length_q"] == batch["max_length_k"] == 5
    crossing = collate_rows(BOS, cross_document_attention=True, with_lengths=True)(features)
    assert crossing["cu_seq_lens_q"].tolist() == [0, 5] + [10] * 15
    many = collate_rows(BOS, with_lengths=True)([{"input_ids": np.zeros(40, dtype=np.uint16)}])
    assert many["cu_seq_lens_q"].tolist() == [*range(40), *[40] * 25]  # 40 sequences, filled up to 64
