"""Bits per byte: the loss of text per byte that it stands for, comparable between tokenizers.

Sum of the losses of text tokens in nats / (ln 2 x their UTF-8 bytes); special tokens add neither loss nor bytes."""

import math

import datasets
import evaluate
import torch
import torch.nn.functional as F

CHUNK_TOKENS = 1024  # logits in float32 at a time: 128 MiB at a vocabulary of 32768


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every predicted token in nats, 0 where the label is -100.

    `logits` (batch, seq, vocab) in any dtype, `labels` (batch, seq) unshifted as a model takes them: position t
    predicts labels[:, t + 1]. Returns (batch, seq - 1) in float32; only CHUNK_TOKENS rows of the logits are copied to
    float32 at a time.
    """
    targets = labels[:, 1:]
    losses = torch.empty(targets.shape, dtype=torch.float32, device=logits.device)
    for row in range(targets.shape[0]):
        for start in range(0, targets.shape[1], CHUNK_TOKENS):
            chunk = slice(start, min(start + CHUNK_TOKENS, targets.shape[1]))
            losses[row, chunk] = F.cross_entropy(
                logits[row, chunk].float(), targets[row, chunk], ignore_index=-100, reduction="none"
            )
    return losses


def text_loss_and_bytes(
    logits: torch.Tensor, labels: torch.Tensor, token_bytes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's loss over its text tokens in nats (batch,), float32, and the bytes they stand for (batch,), int64.

    `logits` and `labels` as for `token_losses`; `token_bytes` (at least as long as the tokenizer, on the same device)
    holds the UTF-8 bytes of every token, 0 for special tokens (`hfgpt.data.tokenizer.token_byte_lengths`).
    """
    return text_sums(token_losses(logits, labels), labels, token_bytes)


def text_sums(
    losses: torch.Tensor, labels: torch.Tensor, token_bytes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from what `token_losses` returned, (batch, seq - 1)."""
    targets = labels[:, 1:]
    num_bytes = torch.where(targets == -100, 0, token_bytes[targets.clamp(min=0)])
    return torch.where(num_bytes > 0, losses, 0.0).sum(dim=-1), num_bytes.sum(dim=-1)


class BitsPerByte(evaluate.Metric):
    """Adds up rows: `add_batch(losses=..., num_bytes=...)` with what `text_loss_and_bytes` returns, gathered from all
    processes; `compute()` gives `{"bits_per_byte": ...}` over everything added. Raises ValueError if that is no text.
    """

    def __init__(self, **kwargs):
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Cross-entropy of text in bits per UTF-8 byte.",
            citation="",
            inputs_description="losses: nats per row of text tokens; num_bytes: UTF-8 bytes that they stand for.",
            features=datasets.Features({"losses": datasets.Value("float64"), "num_bytes": datasets.Value("int64")}),
        )

    def _compute(self, losses: list[float], num_bytes: list[int]) -> dict[str, float]:
        total = sum(num_bytes)
        if total == 0:
            raise ValueError("The evaluated rows hold no text token: bits per byte needs at least one.")
        return {"bits_per_byte": math.fsum(losses) / (math.log(2) * total)}
