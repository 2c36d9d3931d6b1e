"""The packer: no token lost unseen, none invented, every piece behind its own BOS."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfgpt.data.packing import document_positions, pack_documents

BOS = 0


def numbered_documents(lengths: list[int], dtype=np.uint32) -> list[np.ndarray]:
    """Documents whose tokens are all different, so that each token of a row tells where it came from."""
    ends = np.cumsum(lengths)
    return [np.arange(end - length, end, dtype=dtype) + 1 for end, length in zip(ends, lengths, strict=True)]


def pieces(rows: np.ndarray) -> list[list[int]]:
    """The rows' pieces, without BOS."""
    found: list[list[int]] = []
    for row in rows.tolist():
        assert row[0] == BOS
        for token in row:
            if token == BOS:
                found.append([])
            else:
                found[-1].append(token)
    return found


@settings(max_examples=300, deadline=None)
@given(lengths=st.lists(st.integers(0, 60), max_size=80), max_length=st.integers(2, 33))
def test_packing_neither_loses_nor_invents_a_token(lengths, max_length):
    documents = numbered_documents(lengths)
    packed = pack_documents(documents, max_length, BOS)
    placed = pieces(packed.rows)
    tokens = [token for piece in placed for token in piece]

    assert packed.rows.shape[1] == max_length
    assert packed.tokens_in == sum(lengths)
    assert packed.bos_added == len(placed) == np.count_nonzero(packed.rows == BOS)
    assert packed.tokens_in + packed.bos_added == packed.rows.size + packed.dropped_tokens
    assert len(tokens) == len(set(tokens)) == packed.tokens_in - packed.dropped_tokens
    assert set(tokens) <= set(range(1, packed.tokens_in + 1))
    # Every piece is one run of one document.
    document_of = np.repeat(np.arange(len(lengths)), lengths)
    for piece in placed:
        assert piece == list(range(piece[0], piece[0] + len(piece))) if piece else True
        assert len({document_of[token - 1] for token in piece}) <= 1
    # What is dropped would not have made another row, with a BOS before each of its pieces.
    assert packed.dropped_tokens < max_length
    assert packed.documents + packed.empty_documents == len(lengths)
    assert packed.long_documents == sum(length >= max_length for length in lengths)


def test_documents_that_fit_exactly_are_never_cut():
    packed = pack_documents(numbered_documents([1, 2, 4, 5, 7]), max_length=8, bos_token_id=BOS)
    assert sorted(map(len, pieces(packed.rows))) == [1, 2, 4, 5, 7]
    assert (len(packed.rows), packed.cut_documents, packed.dropped_tokens) == (3, 0, 0)


def test_long_documents_give_full_rows_first_and_their_rest_is_packed():
    # Rows of 5 hold 4 text tokens; 10 tokens are two rows and a rest of 2, which a document of 1 completes.
    packed = pack_documents(numbered_documents([10, 1]), max_length=5, bos_token_id=BOS)
    assert sorted(packed.rows.tolist()) == [[0, 1, 2, 3, 4], [0, 5, 6, 7, 8], [0, 9, 10, 0, 11]]
    assert (packed.long_documents, packed.cut_documents, packed.dropped_tokens) == (1, 0, 0)


def test_where_nothing_fits_the_shortest_is_cut_and_its_rest_goes_back():
    # Sizes with BOS are 6, 7, 8. The 8 leaves 2 places, which the 6 fills with 1 of its 5 tokens; its rest of 5, BOS
    # and 4 tokens, does not fit beside the 7, so 2 of them close that row.
    packed = pack_documents(numbered_documents([5, 6, 7]), max_length=10, bos_token_id=BOS)
    assert sorted(packed.rows.tolist()) == [[0, 6, 7, 8, 9, 10, 11, 0, 2, 3], [0, 12, 13, 14, 15, 16, 17, 18, 0, 1]]
    assert (packed.cut_documents, packed.dropped_tokens) == (1, 2)


def test_gap_of_one_token_is_a_lone_bos():
    packed = pack_documents(numbered_documents([3, 4]), max_length=5, bos_token_id=BOS)
    assert packed.rows.tolist() == [[0, 4, 5, 6, 7]]
    packed = pack_documents(numbered_documents([3, 3]), max_length=5, bos_token_id=BOS)
    assert packed.rows.tolist() == [[0, 1, 2, 3, 0]]
    assert packed.bos_added == 2


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_rows_keep_the_documents_type(dtype):
    assert pack_documents(numbered_documents([9, 9], dtype), 4, BOS).rows.dtype == dtype


def test_no_documents_give_no_rows():
    packed = pack_documents([], max_length=8, bos_token_id=BOS)
    assert packed.rows.shape == (0, 8) and packed.tokens_in == packed.dropped_tokens == packed.bos_added == 0
    packed = pack_documents(numbered_documents([0, 3]), max_length=8, bos_token_id=BOS)
    assert packed.rows.shape == (0, 8) and packed.dropped_tokens == 3
    with pytest.raises(ValueError, match="max_length is 1"):
        pack_documents([], max_length=1, bos_token_id=BOS)


def test_a_prefix_of_the_rows_is_no_choice_of_long_documents():
    lengths = np.random.default_rng(0).integers(1, 100, 4000)
    packed = pack_documents(numbered_documents(lengths.tolist()), max_length=128, bos_token_id=BOS)
    first, second = np.array_split(packed.rows, 2)
    mean_piece = [rows.size / np.count_nonzero(rows == BOS) for rows in (first, second)]
    assert abs(mean_piece[0] / mean_piece[1] - 1) < 0.1
    assert packed.dropped_tokens < 128
    # Best fit leaves almost nothing to cut when many lengths are at hand.
    assert packed.cut_documents < 0.01 * len(lengths)


def test_equal_documents_give_equal_rows():
    documents = numbered_documents(np.random.default_rng(1).integers(0, 300, 500).tolist())
    first = pack_documents(documents, 256, BOS)
    assert np.array_equal(first.rows, pack_documents(documents, 256, BOS).rows)


def test_positions_restart_at_every_bos():
    rows = np.array([[0, 1, 2, 0, 0, 3], [4, 5, 0, 6, 7, 8]])
    assert document_positions(rows, BOS).tolist() == [[0, 1, 2, 0, 0, 1], [0, 1, 0, 1, 2, 3]]
