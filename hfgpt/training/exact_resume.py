"""What a checkpoint must hold beside HF's own for a run that goes on to be the run that was never stopped: sums that
no record shows yet, and the place in a stream. Weights, optimizer, schedule and random states are HF's own."""

import json
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

from hfgpt.errors import UserError

PROGRESS_FILE = "progress.json"


class ExactResume(Trainer):
    """A Trainer whose records have no seam where it went on from a checkpoint, wherever between two records that was.

    What is asked of it may change on the way as far as the past stays true: the settings of logging, evaluating and
    saving do at once, and the length where the learning rate goes on without a jump.
    """

    # TRL's values since the last record, by mode, and its count of tokens; HF's Trainer has neither.
    _metrics: Any = {}
    _total_train_tokens: Any = 0

    def data_position(self) -> dict[str, int] | None:
        """Where the next step's rows begin, for data that cannot be asked for row n."""
        return None

    def evaluate(self, *args, **kwargs):
        device = self.args.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # loaders draw a seed
            return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, model, trial):
        # Before anything is written: where a disk refuses, a process must not be waited for in the midst of a save.
        self._losses_of_all = self.accelerator.gather(self._tr_loss.view(1)).tolist()
        super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        if self.args.should_save:
            progress = {
                "losses": self._losses_of_all,  # sums since the last record, one a process
                "recorded_step": self._globalstep_last_logged,
                "metrics": self._metrics.get("train", {}),
                "train_tokens": self._total_train_tokens,
                "data_position": self.data_position(),
            }
            (Path(output_dir) / PROGRESS_FILE).write_text(json.dumps(progress), encoding="utf-8")

    def _load_rng_state(self, checkpoint):
        """HF calls this before the first step of a run that goes on."""
        super()._load_rng_state(checkpoint)
        progress = read_progress(checkpoint)
        if not progress:
            return
        losses, index = progress["losses"], self.args.process_index
        same_processes = len(losses) == self.args.world_size
        self._tr_loss.fill_(losses[index] if same_processes else sum(losses) / len(losses))
        self._globalstep_last_logged = progress["recorded_step"]
        self._total_train_tokens = progress["train_tokens"]
        if progress["metrics"]:
            self._metrics["train"].update(progress["metrics"])

    def _init_training_state(self, max_steps, *args):
        where = super()._init_training_state(max_steps, *args)
        # HF would go on with the logging_steps, eval_steps and save_steps that the run began with.
        self.state.compute_steps(self.args, max_steps)
        if self.state.global_step > max_steps:
            raise UserError(
                f"the run is at step {self.state.global_step}, beyond its new length of {max_steps} steps: give "
                "it its old length back, or start anew with --overwrite."
            )
        return where

    def _run_epoch(self, *args, **kwargs):
        if self.state.global_step >= self.state.max_steps:  # HF looks at the length after a step
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not isinstance(self.lr_scheduler, LambdaLR):
            return
        schedule, was = self.lr_scheduler, self.lr_scheduler.get_last_lr()
        would_be = [
            rate * at(schedule.last_epoch) for rate, at in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        ]
        if any(abs(a - b) > 1e-9 * max(abs(a), abs(b)) for a, b in zip(was, would_be, strict=True)):
            raise UserError(
                f"the learning rate of the run's next step is {was[0]:.4g}, but would be {would_be[0]:.4g} with its "
                "new length: give it its old length back, go on from a checkpoint before the rate fell "
                f"(resume_from_checkpoint), or train on from its model (--model_name_or_path {checkpoint})."
            )


def read_progress(checkpoint: str | None) -> dict[str, Any]:
    """What `ExactResume` left in a checkpoint; empty for none, or one that was written before it left something."""
    file = Path(checkpoint or "") / PROGRESS_FILE
    return json.loads(file.read_text(encoding="utf-8")) if checkpoint and file.is_file() else {}
