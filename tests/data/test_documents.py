"""The choice of a source by section `data`."""

import pytest

from hfgpt.arguments import DataArguments
from hfgpt.data.documents import source_shards
from hfgpt.errors import UserError


def test_a_data_path_becomes_file_shards(tmp_path):
    (tmp_path / "a.txt").write_text("one document")
    (shard,) = source_shards(DataArguments(data_path=str(tmp_path / "a.txt")))
    assert shard.name == "a.txt" and list(shard.documents()) == ["one document"]


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ({}, ["data.dataset", "data.data_path"]),
        ({"dataset": "tinyworld", "data_path": "a.txt"}, ["both set"]),
        ({"dataset": "gutenberg"}, ["data.gutenberg_books is empty"]),
        ({"dataset": "gutenberg", "gutenberg_books": [0]}, ["holds 0"]),
        ({"dataset": "tinyworld", "gutenberg_books": [1342]}, ["data.gutenberg_books", "tinyworld"]),
        ({"dataset": "some/dataset", "format": "gutenberg"}, ["data.format: gutenberg"]),
    ],
)
def test_a_section_that_names_no_source_or_two_is_one_sentence(data, names):
    with pytest.raises(UserError) as error:
        source_shards(DataArguments(**data))
    assert all(name in str(error.value) for name in names) and str(error.value).count("\n") == 0
