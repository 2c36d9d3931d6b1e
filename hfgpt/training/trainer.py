"""The Trainer of pretraining and midtraining: packed rows in a fixed order."""

import torch
from torch.utils.data import SequentialSampler

from hfgpt.training.mixin import RecordedTrainer


class PackedRowsTrainer(RecordedTrainer):
    """HF's Trainer over rows whose order is already fixed.

    They are read in sequence, so that resume is an offset and the rows of a step are the same on any number of
    processes. Loss, accumulation, precision and sharding are HF's own.
    """

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The mean loss, then each position's loss, (batch, seq) in nats, where HF has the logits, and the labels."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            losses = model(**inputs, reduction="none").loss
        return losses.mean(), losses, inputs["labels"]
