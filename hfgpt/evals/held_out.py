"""Held-out loss and bits per byte inside HF's evaluation loop: losses shrink to four numbers a row on the device."""

import numpy as np
import torch
from transformers import EvalPrediction

from hfgpt.evals.bits_per_byte import BitsPerByte, text_sums


class HeldOutBitsPerByte:
    """Two hooks of `transformers.Trainer`: `reduce` is its `preprocess_logits_for_metrics`, `compute` its
    `compute_metrics`. `token_bytes` (vocab,) holds the UTF-8 bytes of every token, 0 for special tokens."""

    def __init__(self, token_bytes: np.ndarray):
        self.token_bytes = torch.from_numpy(token_bytes)

    def reduce(self, losses: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(batch, 4): each row's loss over text tokens in nats and their bytes, its loss over all tokens and their
        number. Position t of `losses` (batch, seq) is what labels[:, t + 1] cost."""
        losses = losses[:, :-1]
        text_losses, num_bytes = text_sums(losses, labels, self.token_bytes.to(labels.device))
        counted = (labels[:, 1:] != -100).sum(dim=-1)
        sums = torch.stack((text_losses, num_bytes, losses.sum(dim=-1), counted), dim=-1)
        return sums if sums.device.type == "mps" else sums.double()  # an Apple GPU has no float64

    def compute(self, prediction: EvalPrediction) -> dict[str, float]:
        """`{"bits_per_byte", "nats_per_token"}` over all rows, each counted once however many processes there are."""
        metric = BitsPerByte()
        text_losses, num_bytes, losses, tokens = np.asarray(prediction.predictions).T
        metric.add_batch(losses=text_losses.tolist(), num_bytes=num_bytes.astype(np.int64).tolist())
        return {**metric.compute(), "nats_per_token": float(losses.sum() / tokens.sum())}
