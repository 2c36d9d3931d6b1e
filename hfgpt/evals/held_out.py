"""Bits per byte inside HF's evaluation loop: logits shrink to two numbers a row on the device, before any gather."""

import numpy as np
import torch
from transformers import EvalPrediction

from hfgpt.evals.bits_per_byte import BitsPerByte, text_loss_and_bytes


class HeldOutBitsPerByte:
    """Two hooks of `transformers.Trainer`: `reduce` is its `preprocess_logits_for_metrics`, `compute` its
    `compute_metrics`. `token_bytes` (vocab,) holds the UTF-8 bytes of every token, 0 for special tokens."""

    def __init__(self, token_bytes: np.ndarray):
        self.token_bytes = torch.from_numpy(token_bytes)

    def reduce(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(batch, 2): the loss over each row's text tokens in nats, and the bytes that they stand for."""
        losses, num_bytes = text_loss_and_bytes(logits, labels, self.token_bytes.to(labels.device))
        return torch.stack((losses.double(), num_bytes.double()), dim=-1)

    def compute(self, prediction: EvalPrediction) -> dict[str, float]:
        """`{"bits_per_byte": ...}` over all rows of all processes."""
        metric = BitsPerByte()
        losses, num_bytes = np.asarray(prediction.predictions).T
        metric.add_batch(losses=losses.tolist(), num_bytes=num_bytes.astype(np.int64).tolist())
        return metric.compute()
