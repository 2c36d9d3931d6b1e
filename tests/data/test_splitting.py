"""The split by content hash: exact shares, independent of order, copies together."""

import json
import math
import random
import re
from hashlib import blake2b
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hfgpt.arguments import DataArguments
from hfgpt.data.preparation import prepare_data
from hfgpt.data.splitting import is_validation

DOCUMENTS = [f"document {number}: the quick brown fox" for number in range(40_000)]


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_the_share_held_out_is_the_fraction_asked_for(fraction):
    held_out = sum(is_validation(text, fraction) for text in DOCUMENTS)
    expected = fraction * len(DOCUMENTS)
    assert abs(held_out - expected) < 4 * math.sqrt(expected * (1 - fraction))


def test_no_document_at_fraction_zero_and_all_at_one():
    assert not any(is_validation(text, 0.0) for text in DOCUMENTS[:5000])
    assert all(is_validation(text, 1.0) for text in DOCUMENTS[:5000])


def test_the_choice_depends_on_content_alone():
    shuffled = random.Random(0).sample(DOCUMENTS, len(DOCUMENTS))
    assert {t for t in shuffled if is_validation(t, 0.05)} == {t for t in DOCUMENTS if is_validation(t, 0.05)}
    copies = ["".join(list(text)) for text in DOCUMENTS[:2000]]
    assert [is_validation(t, 0.05) for t in copies] == [is_validation(t, 0.05) for t in DOCUMENTS[:2000]]


def test_a_larger_fraction_keeps_what_a_smaller_one_held_out():
    small = {text for text in DOCUMENTS if is_validation(text, 0.01)}
    large = {text for text in DOCUMENTS if is_validation(text, 0.02)}
    assert small and small < large


def test_the_threshold_is_the_64_bit_hash_below_fraction_times_2_to_the_64():
    text = "one document"
    value = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
    share = value / 2**64
    assert is_validation(text, math.nextafter(share, 1.0)) and not is_validation(text, math.nextafter(share, 0.0))


def test_the_hash_is_the_same_on_every_machine_and_in_every_version():
    assert [n for n in range(300) if is_validation(str(n), 0.02)] == [115, 143]


def test_text_that_is_no_valid_unicode_is_split_too():
    assert isinstance(is_validation("half a pair \ud83d", 0.5), bool)


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan")])
def test_a_fraction_outside_zero_to_one_is_refused(fraction):
    with pytest.raises(ValueError, match="validation_fraction"):
        is_validation("text", fraction)


@pytest.fixture(scope="module")
def tokenizer_folder(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@settings(max_examples=10, deadline=None, phases=[Phase.generate])
@given(
    copies=st.lists(st.integers(100, 159), max_size=60),
    num_files=st.integers(1, 3),
    fraction=st.sampled_from([0.2, 0.5]),
    seed=st.integers(0, 99),
)
def test_a_preparation_puts_every_document_on_one_side_and_loses_none(
    tokenizer, tokenizer_folder, tmp_path_factory, copies, num_files, fraction, seed
):
    folder = tmp_path_factory.mktemp("text")
    numbers = [*range(100, 160), *copies]
    document = {number: f"the {'many words ' * (number % 7)}of {number}." for number in numbers}
    for file in range(num_files):  # each holds every document, in an order of its own
        shuffled = random.Random(seed + file).sample(numbers, len(numbers))
        lines = [json.dumps({"text": document[number]}) for number in shuffled]
        (folder / f"{file}.jsonl").write_text("\n".join(lines))
    data = DataArguments(data_path=str(folder), max_length=16, validation_fraction=fraction, num_proc=1)
    prepared = prepare_data(data, tokenizer_folder, folder / "prepared")

    held_out = {number for number, text in document.items() if is_validation(text, fraction)}
    seen = {}
    # Copies are trained on as often as they stand there, and measured on once.
    train = [document[number] for number in numbers if number not in held_out] * num_files
    validation = [document[number] for number in held_out]
    for split, rows, texts in (
        ("train", prepared.train(), train),
        ("validation", prepared.validation(), validation),
    ):
        counts = prepared.statistics[split]
        assert (counts["documents"], counts["text_bytes"]) == (len(texts), sum(map(len, texts)))
        assert counts["dropped_tokens"] < 16 * num_files
        decoded = [text for row in rows["input_ids"] for text in tokenizer.decode(row).split(tokenizer.bos_token)]
        seen[split] = {int(number) for text in decoded for number in re.findall(r"of (\d{3})\.", text)}
    assert seen["train"] <= set(numbers) - held_out and seen["validation"] <= held_out
    assert seen["train"] and seen["validation"]
