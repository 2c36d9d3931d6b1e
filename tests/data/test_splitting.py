"""The split by content hash: exact shares, independent of order, copies together."""

import math
import random
from hashlib import blake2b

import pytest

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
