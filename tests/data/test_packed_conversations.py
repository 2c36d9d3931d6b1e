"""Rows of several conversations: none sees another, at any batch size, and no label is lost or moved."""

import pytest
import torch
from datasets import Dataset

from hfgpt.data.packed_conversations import ConversationCollator, pack_conversations
from hfgpt.model import GPTConfig, GPTForCausalLM

PAD, BOS = 1, 0
LENGTHS = (5, 9, 3, 12, 7, 2, 8, 4, 6, 11)


@pytest.fixture(scope="module")
def conversations() -> Dataset:
    """BOS and then random tokens; of each, those at odd places are supervised."""
    generator = torch.Generator().manual_seed(0)
    rows = [[BOS, *torch.randint(2, 60, (length - 1,), generator=generator).tolist()] for length in LENGTHS]
    labels = [[token if place % 2 else -100 for place, token in enumerate(row)] for row in rows]
    return Dataset.from_dict({"input_ids": rows, "labels": labels})


@pytest.fixture(scope="module")
def model() -> GPTForCausalLM:
    torch.manual_seed(1)
    shape = {"hidden_size": 32, "num_attention_heads": 2, "vocab_size": 60, "max_position_embeddings": 16}
    return GPTForCausalLM(GPTConfig.from_depth(2, **shape)).eval()


def test_whole_conversations_are_packed_and_every_one_once(conversations):
    packed = pack_conversations(conversations, max_length=16)
    assert (packed.conversations, packed.tokens) == (len(LENGTHS), sum(LENGTHS))
    assert sorted(n for lengths in packed.dataset["seq_lengths"] for n in lengths) == sorted(LENGTHS)
    assert len(packed) < len(LENGTHS) and max(len(row) for row in packed.dataset["input_ids"]) <= 16
    assert packed.padding == pytest.approx(1 - sum(LENGTHS) / (len(packed) * 16))
    alone = pack_conversations(conversations, max_length=16, packing=False, max_rows=4)
    assert [lengths for lengths in alone.dataset["seq_lengths"]] == [[n] for n in LENGTHS[:4]]


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_packed_row_gives_each_conversation_the_logits_that_it_has_alone(
    conversations, model, attention, batch_size
):
    model.set_attn_implementation(attention)
    rows = list(pack_conversations(conversations, max_length=16).dataset)[:batch_size]
    batch = ConversationCollator(PAD)(rows)
    assert batch["position_ids"].shape == batch["input_ids"].shape and "attention_mask" not in batch
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits
        for number, row in enumerate(rows):
            start = 0
            for length in row["seq_lengths"]:
                piece = batch["input_ids"][number : number + 1, start : start + length]
                alone = model(input_ids=piece).logits[0]
                torch.testing.assert_close(logits[number, start : start + length], alone, atol=1e-5, rtol=1e-5)
                start += length


def test_the_loss_of_packed_rows_is_that_of_the_conversations(conversations, model):
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        packed = ConversationCollator(PAD)(list(pack_conversations(conversations, max_length=16).dataset))
        apart = ConversationCollator(PAD)(list(pack_conversations(conversations, 16, packing=False).dataset))
        supervised = sum(length // 2 for length in LENGTHS)
        assert (packed["labels"] != -100).sum() == (apart["labels"] != -100).sum() == supervised
        assert model(**packed).loss.item() == pytest.approx(model(**apart).loss.item(), abs=1e-5)
