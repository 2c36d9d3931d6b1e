"""The Trainer of pretraining and midtraining: packed rows in a fixed order, Muon, records, complete checkpoints."""

import math

import torch
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

from hfgpt.errors import UserError
from hfgpt.training.arguments import PretrainArguments
from hfgpt.training.checkpoints import CompleteCheckpoints
from hfgpt.training.optimizer import MuonAdamWFactory
from hfgpt.training.record import RunRecord
from hfgpt.training.schedules import warmup_stable_decay

# Names in metrics.jsonl for what HF's Trainer calls otherwise.
NAMES = {"eval_loss": "val_loss", "eval_bits_per_byte": "val_bits_per_byte"}
KEPT = ("loss", "grad_norm", "learning_rate", *NAMES)


class PackedRowsTrainer(CompleteCheckpoints):
    """HF's Trainer over rows whose order is already fixed.

    They are read in sequence, so that resume is an offset and the rows of a step are the same on any number of
    processes. Loss, accumulation, precision and sharding are HF's own.
    """

    args: PretrainArguments

    def __init__(self, *, args: PretrainArguments, record: RunRecord, rates: dict[str, float], **kwargs):
        if args.uses_muon:
            options = {"weight_decay": args.weight_decay, "momentum": args.muon_momentum}
            kwargs["optimizer_cls_and_kwargs"] = (MuonAdamWFactory, rates | options)
        super().__init__(args=args, **kwargs)
        self.record = record
        self.add_callback(_Clock(record))

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.lr_scheduler is None and self.args.lr_scheduler_type == "warmup_stable_decay":
            options = dict(self.args.lr_scheduler_kwargs or {})
            self.lr_scheduler = warmup_stable_decay(
                optimizer or self.optimizer,
                warmup_steps=self.args.get_warmup_steps(num_training_steps),
                decay_steps=options.get("num_decay_steps", round(self.args.decay_ratio * num_training_steps)),
                total_steps=num_training_steps,
                min_lr_ratio=options.get("min_lr_ratio", self.args.min_lr_ratio),
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def evaluate(self, *args, **kwargs):
        with self.record.paused():
            return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, model, trial):
        with self.record.paused():
            super()._save_checkpoint(model, trial)

    def log(self, logs, start_time=None):
        loss = logs.get("loss")
        if loss is not None and not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at step {self.state.global_step}: lower the learning rates or raise "
                f"warmup_steps, then run again, which resumes from the newest complete checkpoint."
            )
        step = self.state.global_step
        values = {NAMES.get(name, name): logs[name] for name in KEPT if name in logs}
        if loss is not None:
            values.update(self.record.speed(step))
            if torch.cuda.is_available():
                values["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
        if values:
            record = self.record.append(step, values)
            logs.update({name: record[name] for name in ("tokens", "tokens_per_second", "mfu") if name in record})
        super().log(logs, start_time)


class _Clock(TrainerCallback):
    """Starts the record's clock at the first or the resumed step, and stops it at the end."""

    def __init__(self, record: RunRecord):
        self.record = record

    def on_train_begin(self, args, state, control, **kwargs):
        self.record.start(state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self.record.stop()
