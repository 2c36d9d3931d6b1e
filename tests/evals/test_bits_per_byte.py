import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedTokenizerFast

from hfgpt.data.tinyworld import TinyWorld
from hfgpt.data.tokenizer import token_byte_lengths, train_tokenizer
from hfgpt.evals.bits_per_byte import CHUNK_TOKENS, BitsPerByte, text_loss_and_bytes, token_losses

TEXTS = ["The baker lives in Thornbury.", "Zażółć gęślą jaźń", "東京タワー 🗼 naïve café", "7 + 5 = 12\n"]


@pytest.fixture(scope="module", params=[280, 700], ids=["nearly bytes", "700 tokens"])
def tokenizer(request) -> PreTrainedTokenizerFast:
    return train_tokenizer([*TinyWorld(20, 1).documents(200), *TEXTS * 20], vocab_size=request.param)


def uniform_byte_logits(token_bytes: torch.Tensor, bos_token_id: int) -> torch.Tensor:
    """Log-probabilities (vocab,) of a model to which every byte costs nine bits: a token of n bytes has probability
    2 ** (-9 n), and BOS takes what is left."""
    probabilities = torch.where(token_bytes > 0, 2.0 ** (-9 * token_bytes.double()), 0.0)
    probabilities[bos_token_id] = 1 - probabilities.sum()
    assert probabilities[bos_token_id] > 0
    return probabilities.log().clamp(min=-1e9).float()


def test_a_uniform_byte_model_gets_the_same_figure_under_every_tokenizer(tokenizer):
    token_bytes = torch.from_numpy(token_byte_lengths(tokenizer))
    logits = uniform_byte_logits(token_bytes, tokenizer.bos_token_id)
    metric = BitsPerByte()
    for text in TEXTS:
        labels = torch.tensor([tokenizer(text).input_ids])
        losses, num_bytes = text_loss_and_bytes(logits.expand(*labels.shape, -1), labels, token_bytes)
        assert num_bytes.tolist() == [len(text.encode())]
        metric.add_batch(losses=losses, num_bytes=num_bytes)
    assert metric.compute()["bits_per_byte"] == pytest.approx(9.0, abs=1e-5)


def test_special_tokens_and_ignored_labels_add_neither_loss_nor_bytes(tokenizer):
    token_bytes = torch.from_numpy(token_byte_lengths(tokenizer))
    plain = torch.tensor([tokenizer(TEXTS[0]).input_ids])
    marks = [tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, plain.shape[1], len(tokenizer), generator=generator)
    loss, num_bytes = text_loss_and_bytes(logits, plain, token_bytes)

    labels = torch.cat([plain, torch.tensor([[*marks, -100, -100]])], dim=1)
    longer = torch.cat([logits, 50 * torch.randn(1, 5, len(tokenizer), generator=generator)], dim=1)
    longer_loss, longer_bytes = text_loss_and_bytes(longer, labels, token_bytes)
    assert longer_bytes.tolist() == num_bytes.tolist() == [len(TEXTS[0].encode())]
    assert longer_loss.item() == pytest.approx(loss.item(), rel=1e-6)

    labels[0, 1:4] = -100
    expected = token_losses(logits, plain)[0, 3:].sum()
    masked_loss, masked_bytes = text_loss_and_bytes(longer, labels, token_bytes)
    assert masked_loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert masked_bytes.item() == num_bytes.item() - token_bytes[plain[0, 1:4]].sum().item()


def test_rows_of_text_cut_within_a_character_count_every_byte_once():
    tokenizer = train_tokenizer(TinyWorld(20, 1).documents(50), vocab_size=265)
    token_bytes = torch.from_numpy(token_byte_lengths(tokenizer))
    ids = tokenizer("🗼🗼").input_ids
    assert len(ids) == 1 + 8  # BOS and single bytes
    halves = torch.tensor([[tokenizer.bos_token_id, *ids[1:3]], [tokenizer.bos_token_id, *ids[3:5]]])
    _, num_bytes = text_loss_and_bytes(torch.zeros(2, 3, len(tokenizer)), halves, token_bytes)
    assert num_bytes.tolist() == [2, 2]


def test_losses_are_cross_entropy_and_the_logits_float_copy_never_stands_whole():
    class LargestFloat(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.dtype == torch.float32:
                self.numel = max(self.numel, result.numel())
            return result

    generator = torch.Generator().manual_seed(0)
    length, vocab_size = 2 * CHUNK_TOKENS + 77, 11
    logits = torch.randn(2, length, vocab_size, generator=generator).bfloat16()
    labels = torch.randint(0, vocab_size, (2, length), generator=generator)
    labels[1, 5:900] = -100
    with LargestFloat() as seen:
        losses = token_losses(logits, labels)
    assert losses.dtype == torch.float32 and seen.numel <= CHUNK_TOKENS * vocab_size
    whole = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), labels[:, 1:], reduction="none")
    torch.testing.assert_close(losses, whole, rtol=1e-6, atol=1e-6)
    assert losses[1, 4:899].abs().max() == 0


def test_the_metric_weighs_rows_by_their_bytes_whatever_the_batches():
    rows = [(3.0 * math.log(2), 1), (10.0 * math.log(2), 9), (0.0, 0), (7.0 * math.log(2), 30)]
    together, one_by_one = BitsPerByte(), BitsPerByte()
    together.add_batch(losses=[loss for loss, _ in rows], num_bytes=[count for _, count in rows])
    for loss, count in rows:
        one_by_one.add_batch(losses=torch.tensor([loss], dtype=torch.float64), num_bytes=torch.tensor([count]))
    assert together.compute() == one_by_one.compute() == {"bits_per_byte": pytest.approx(20 / 40)}
    one_by_one.add_batch(losses=[8 * math.log(2)], num_bytes=[1])  # compute() has emptied it
    assert one_by_one.compute()["bits_per_byte"] == pytest.approx(8.0)


def test_the_metric_refuses_rows_without_any_text():
    metric = BitsPerByte()
    metric.add_batch(losses=[0.0, 0.0], num_bytes=[0, 0])
    with pytest.raises(ValueError, match="no text token"):
        metric.compute()
