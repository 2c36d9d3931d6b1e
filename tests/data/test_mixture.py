"""Rows of several sources in one stream: exact shares everywhere, every row once an epoch, the same on resume."""

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value

from hfgpt.arguments import DataArguments
from hfgpt.data.mixture import MixedRows, MixtureSource, epoch_rows, source_of
from hfgpt.data.mixture_sources import sources_of
from hfgpt.errors import UserError

FEATURES = Features({"input_ids": List(Value("uint16"), length=4)})


def source(name: str, number: int, count: int, weight: float) -> MixtureSource:
    """Row i of source `number` is [0, number, i, i]."""
    rows = Dataset.from_dict({"input_ids": [[0, number, i, i] for i in range(count)]}, features=FEATURES)
    return MixtureSource(name, rows, weight)


@pytest.mark.parametrize("shares", [[0.7, 0.3], [0.5, 0.3, 0.2], [1.0], [0.001, 0.999], [0.1] * 10])
def test_after_any_number_of_rows_each_source_has_given_its_share(shares):
    count = 20_000
    sources, inner = source_of(np.arange(count), shares)
    for number, share in enumerate(shares):
        mine = sources == number
        assert np.array_equal(inner[mine], np.arange(mine.sum()))  # none left out, none twice
        given = np.cumsum(mine)
        assert np.abs(given - np.arange(1, count + 1) * share).max() < 1 + len(shares) / 4


def test_weights_are_relative_and_tokens_are_shared_within_one_per_cent():
    mixed = MixedRows([source("a", 1, 50, 7), source("b", 2, 900, 3)], seed=3, total_rows=1000)
    rows = mixed.__getitems__(list(range(1000)))
    numbers = np.array([row["input_ids"][1] for row in rows])
    assert np.mean(numbers == 1) == pytest.approx(0.7, abs=0.001)
    assert mixed.rows_given() == [(numbers == 1).sum(), (numbers == 2).sum()]


def test_each_source_is_read_whole_before_any_of_its_rows_comes_again():
    mixed = MixedRows([source("a", 1, 50, 1), source("b", 2, 900, 1)], seed=3, total_rows=1000)
    rows = [tuple(mixed[p]["input_ids"]) for p in range(1000)]
    from_a = [row for row in rows if row[1] == 1]
    assert all(len(set(from_a[start : start + 50])) == 50 for start in range(0, 500, 50))
    assert len({row for row in rows if row[1] == 2}) == 500


def test_the_row_at_a_position_depends_on_nothing_read_before():
    sources = [source("a", 1, 50, 2), source("b", 2, 70, 1)]
    one, other = MixedRows(sources, 3, 300), MixedRows(sources, 3, 6000)
    backwards = {p: tuple(other[p]["input_ids"]) for p in range(299, -1, -1)}
    assert all(tuple(one[p]["input_ids"]) == backwards[p] for p in range(300))
    with pytest.raises(IndexError):
        one[300]


def test_an_epoch_ends_when_the_first_source_has_been_seen_whole():
    assert epoch_rows([700, 1000], [7, 3]) == 1000
    assert epoch_rows([1000, 30], [0.7, 0.3]) == 100


def test_sources_take_what_holds_for_all_from_section_data():
    data = DataArguments(dataset="tinyworld", max_length=128, columns={"text": "body"}, streaming=True, num_shards=3)
    mixture = [{"data_path": "a.txt", "weight": "2"}, {"dataset": "x/y", "content": "chat", "weight": 1}]
    (text, heavy), (chat, light) = sources_of(mixture, data, "tiny.yaml:3: midtrain.mixture")
    assert (text.data_path, text.dataset, text.content, text.max_length) == (["a.txt"], None, "text", 128)
    assert (chat.dataset, chat.content, chat.columns, chat.num_shards) == ("x/y", "chat", {}, None)
    assert (heavy, light, text.streaming) == (2.0, 1.0, False)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"dataset": "x", "weigth": 1}, "source 1 has a key weigth"),
        ({"dataset": "x", "weight": 0}, "needs a weight above zero"),
        ({"dataset": "x"}, "needs a weight above zero, not None"),
        ({"dataset": "x", "weight": 1, "content": "speech"}, "content of source 1 must be one of text, chat"),
        ({"dataset": "x", "weight": 1, "max_length": 3}, "has a key max_length"),
    ],
)
def test_a_mistake_in_a_mixture_is_named(wanted, words):
    with pytest.raises(UserError, match=words):
        sources_of([wanted], DataArguments(), "tiny.yaml:3: midtrain.mixture")
