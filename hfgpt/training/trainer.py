"""The Trainer of pretraining and midtraining: packed rows in a fixed order."""

from typing import Protocol, cast

import torch
from torch.utils.data import IterableDataset, SequentialSampler

from hfgpt.training.exact_resume import read_progress
from hfgpt.training.mixin import RecordedTrainer


class Stream(Protocol):
    """Rows that are read one after the other, and can be told where to begin."""

    def state_dict(self, position: int) -> dict[str, int]: ...

    def load_state_dict(self, state: dict[str, int]) -> None: ...


class PackedRowsTrainer(RecordedTrainer):
    """HF's Trainer over rows whose order is already fixed.

    They are read in sequence, so that resume is an offset and the rows of a step are the same on any number of
    processes. Loss, accumulation, precision and sharding are HF's own.
    """

    _goes_on_from: str | None = None  # a stream went on from here, and has not given a row yet

    @property
    def stream(self) -> Stream | None:
        return cast(Stream, self.train_dataset) if isinstance(self.train_dataset, IterableDataset) else None

    def train(self, resume_from_checkpoint=None, **kwargs):
        position = read_progress(resume_from_checkpoint).get("data_position")
        if position is not None and self.stream is not None:
            self.stream.load_state_dict(position)
            self.args.ignore_data_skip = True  # HF would read the stream from its beginning, and throw the rows away
            self._goes_on_from = resume_from_checkpoint
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def data_position(self):
        return self.stream.state_dict(self.state.global_step * self.record.rows_per_step) if self.stream else None

    def get_batch_samples(self, *args, **kwargs):
        batches = super().get_batch_samples(*args, **kwargs)
        if self._goes_on_from is not None:  # the loader drew a seed, which a run that was never stopped draws once
            self._load_rng_state(self._goes_on_from)
            self._goes_on_from = None
        return batches

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The mean loss, then each position's loss, (batch, seq) in nats, where HF has the logits, and the labels."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            losses = model(**inputs, reduction="none").loss
        return losses.mean(), losses, inputs["labels"]
