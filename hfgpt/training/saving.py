"""How a trainer saves: checkpoints that are complete or invisible, finished while training goes on, and whole models.

HF's Trainer writes straight into `checkpoint-N`, pushes and rotates before it is complete, and dies with a full disk.
"""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch.distributed.fsdp import StateDictType
from tqdm import tqdm
from transformers.trainer import TRAINING_ARGS_NAME

from hfgpt.errors import UserError
from hfgpt.training.checkpoints import (
    STAGING,
    checkpoint_step,
    clear_staging,
    complete_checkpoints,
    publish,
    read_mark,
    rotate_checkpoints,
    sync_files,
)
from hfgpt.training.resuming import CheckedResume

# Left free beside a checkpoint, for what else a run writes: records, samples, plots.
SPARE_BYTES = 16 * 2**20
GO_ON = "mend that and give the same command again (without --overwrite), which goes on from the newest checkpoint"


@dataclass(frozen=True)
class Save:
    """A checkpoint that was written: its bytes, and the seconds that training waited for it."""

    step: int
    num_bytes: int
    seconds: float


class CompleteCheckpoints(CheckedResume):
    """A Trainer whose checkpoint folders carry the mark COMPLETE (size and hash of every file) or do not exist.

    Training waits while the files are written to a folder aside. Then a thread of one process (one a node with
    `save_on_each_node`) syncs and hashes them, marks the folder, lets it appear in one step, and only then calls
    `on_complete` and rotates (with `save_on_each_node` at the next save, when all nodes have published theirs);
    `finish_checkpoint` waits for it. A save that fails because of the disk leaves the run and its older checkpoints as
    they are, and says so.
    """

    last_save: Save | None = None  # in processes that write; None where it failed
    newest: Path | None = None  # that which this run wrote or went on from: the next start takes it
    _staging: Path | None = None  # while a checkpoint is being written
    _written: Path | None = None  # all processes have written this one
    _finishing: Future[None] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Called in that thread, on each node, with a checkpoint that has just become complete; older ones still stand.
        self.on_complete: Callable[[Path], None] = lambda folder: None
        self._finisher = ThreadPoolExecutor(1, "checkpoint")

    def train(self, resume_from_checkpoint=None, **kwargs):
        self.newest = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        finally:
            self.finish_checkpoint()

    def finish_checkpoint(self) -> None:
        """Wait until the last save is complete, or has failed and said so: the newest checkpoint is then on disk."""
        self._hand_over()
        finishing, self._finishing = self._finishing, None
        if finishing is not None:
            finishing.result()

    def save_model(self, output_dir=None, _internal_call=False):
        """The stage's result is a whole model folder however the run's checkpoints are written, and on the disk when
        this returns. Raises UserError where the disk does not take it."""
        if _internal_call:
            return super().save_model(output_dir, _internal_call)
        plugin = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        of_checkpoints = plugin.state_dict_type if plugin else None
        if plugin:
            plugin.state_dict_type = StateDictType.FULL_STATE_DICT  # under any other HF writes nothing, without a word
        try:
            super().save_model(output_dir, _internal_call)
            if self.args.should_save:
                sync_files(Path(output_dir or str(self.args.output_dir)))
        except WRITE_ERRORS as error:
            if not _is_of_the_disk(error):
                raise
            raise UserError(
                f"the model could not be saved in {output_dir or self.args.output_dir} ({_in_words(error)}): {GO_ON}."
            ) from error
        finally:
            if plugin:
                plugin.state_dict_type = of_checkpoints

    def _determine_best_metric(self, metrics, trial):
        """None is kept as the best: HF, which asks for schedules that go by the loss, would look for it at the end
        where it was written, and all processes wait there."""
        return False

    def _save(self, output_dir=None, state_dict=None):
        if self.args.save_on_each_node and state_dict != {}:  # FSDP gathers the weights in one process of all nodes
            # transformers itself would let one process of all nodes write them; this hands back what HF asks for.
            self.accelerator.unwrap_model(self.model).should_save_on_this_rank = bool
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # a pickle that nobody reads; recipe.yaml says the same
            (Path(output_dir or self.args.output_dir) / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _get_output_dir(self, trial):
        return str(self._staging) if self._staging else super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial):
        began = time.perf_counter()
        self.finish_checkpoint()
        self._rotate_together()
        self.last_save = None
        step = self.state.global_step
        self._staging = self.run_folder / STAGING
        folder = self._staging / f"checkpoint-{step}"
        trouble = self._anyone(self._want_of_room(folder) if self.args.should_save else None)
        trouble = trouble or self._anyone(self._write(model, trial))
        if trouble is not None:
            if self.is_world_process_zero():
                self._say_failed(folder, trouble)
            return
        self._written = folder
        if self.args.should_save:
            num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            self.last_save = Save(step, num_bytes, time.perf_counter() - began)
        if self.is_world_process_zero():
            steps = f"{step:>{len(str(self.state.max_steps))}}/{self.state.max_steps}"
            tqdm.write(
                f"step {steps} | checkpoint of {_in_units(num_bytes)} written in {self.last_save.seconds:.2f} s"
            )

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        super()._maybe_log_save_evaluate(*args, **kwargs)
        self._hand_over()  # not before: TRL's trainers add files after `_save_checkpoint`

    def _finalize_training(self, *args, **kwargs):
        self.finish_checkpoint()  # before callbacks hear of the end
        self._rotate_together()
        return super()._finalize_training(*args, **kwargs)

    def _want_of_room(self, folder: Path) -> str | None:
        """Make the folder for a checkpoint; returns why it would not fit."""
        clear_staging(self.run_folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return _in_words(error)
        complete, _ = complete_checkpoints(self.run_folder)
        mark = read_mark(complete[-1]) if complete else None
        needed = mark.num_bytes if mark else self._estimated_bytes()
        free = shutil.disk_usage(self.run_folder).free
        if free >= needed + SPARE_BYTES:
            return None
        return (
            f"it takes {_in_units(needed)}, and of {_in_units(free)} left on the disk {_in_units(SPARE_BYTES)} are "
            "kept for the run's records"
        )

    def _estimated_bytes(self) -> int:
        """Bytes of weights and optimizer state, whole where the processes hold shards."""
        assert self.model is not None and self.optimizer is not None  # there was a step
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters() if p.requires_grad)
        tensors = (value for entry in self.optimizer.state.values() for value in entry.values())
        state = sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))
        return weights * (2 if self.is_fsdp_enabled else 1) + state  # under FSDP a copy to go on from, and the model

    def _write(self, model, trial) -> str | None:
        """Let HF write the checkpoint; returns what the disk had against it."""
        try:
            super()._save_checkpoint(model, trial)
        except WRITE_ERRORS as error:
            if not _is_of_the_disk(error):
                raise
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # the others wait for a part of this one's to gather
                raise UserError(
                    f"the checkpoint of step {self.state.global_step} could not be saved in {self.run_folder} "
                    f"({_in_words(error)}): {GO_ON}."
                ) from error
            return _in_words(error)
        return None

    def _anyone(self, trouble: str | None) -> str | None:
        """The first trouble that any process has. Waits for all of them."""
        return next((one for one in gather_object([trouble]) if one is not None), None)

    def _say_failed(self, folder: Path, trouble: str) -> None:
        newest = f"{self.newest.name} stays the newest" if self.newest else "there is no older one"
        tqdm.write(f"{folder.name} was not saved ({trouble}). The run goes on; {newest}.")

    def _hand_over(self) -> None:
        """Leave what was written to the thread that finishes it, and remove what was not written whole."""
        staging, written = self._staging, self._written
        self._staging = self._written = None
        if staging is None or not self.args.should_save:
            return
        if written is None:
            clear_staging(staging.parent)
        else:
            self._finishing = self._finisher.submit(self._finish, written)

    def _finish(self, written: Path) -> None:
        folder = self.run_folder / written.name
        try:
            publish(written, folder)
        except OSError as error:  # some file systems say only now that they are full
            clear_staging(self.run_folder)
            return self._say_failed(folder, _in_words(error))
        self.newest = folder
        self.on_complete(folder)
        if not self.args.save_on_each_node:
            self._rotate(folder)
        clear_staging(self.run_folder)

    def _rotate_together(self) -> None:
        """Where every node has a disk of its own: remove what is older than the newest checkpoint that all of them
        hold, since one may have published what another's disk refused. All processes must call this."""
        if not self.args.save_on_each_node:
            return
        last = checkpoint_step(self.newest) if self.newest else -1
        own = [f.name for f in complete_checkpoints(self.run_folder)[0] if checkpoint_step(f) <= last]
        found = [set(names) for names in gather_object([own if self.args.should_save else None]) if names is not None]
        common = [self.run_folder / name for name in set.intersection(*found)]
        if common and self.args.should_save:
            self._rotate(max(common, key=checkpoint_step))
            clear_staging(self.run_folder)

    def _rotate(self, newest_good: Path) -> None:
        try:
            rotate_checkpoints(newest_good, self.args.save_total_limit, self.args.save_weights_total_limit)
        except OSError as error:
            tqdm.write(f"older checkpoints could not be removed ({_in_words(error)}).")


WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)


def _is_of_the_disk(error: Exception) -> bool:
    """torch.save's own writer knows only RuntimeError."""
    return not isinstance(error, RuntimeError) or "inline_container" in str(error)


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RuntimeError):
        return "the disk took no more"
    return " ".join(str(error).split())


def _in_units(num_bytes: int) -> str:
    """1.2 GiB, or MiB below one of them."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
