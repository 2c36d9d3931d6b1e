"""Going on from a checkpoint: the newest that is whole to the last byte, on every disk, and nothing unpickled from it.

HF's Trainer takes the highest number, complete or not, and goes on without what is missing.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.distributed.fsdp import StateDictType
from transformers import Trainer

from hfgpt.errors import UserError
from hfgpt.training.arguments import StageArguments
from hfgpt.training.checkpoints import (
    FSDP2_FULL,
    FSDP2_SHARDED,
    WHOLE,
    ZERO,
    checkpoint_folders,
    checkpoint_step,
    complete_checkpoints,
    obstacle,
    written_under,
)
from hfgpt.training.numbers_only import numbers_only

LAUNCHED_BY = {
    WHOLE: "one process or accelerate_configs/ddp.yaml",
    FSDP2_FULL: "accelerate_configs/fsdp2.yaml",
    FSDP2_SHARDED: "accelerate_configs/fsdp2_multinode.yaml, or fsdp2.yaml with that fsdp_state_dict_type",
    ZERO: "accelerate_configs/zero3.yaml",
}
NOT_A_PATH = {"", "true", "false"}  # what HF takes in `resume_from_checkpoint` beside paths


class CheckedResume(Trainer):
    """A Trainer that finds the checkpoint to go on from, and takes it whole or not at all."""

    args: StageArguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Called before the first step, when the checkpoint and a schedule of this length have been taken. What a run
        # changes of an earlier one's files it changes then, so that one that is refused has changed nothing.
        self.on_accepted: list[Callable[[], Any]] = []

    @property
    def run_folder(self) -> Path:
        """Where the checkpoints lie."""
        return Path(str(self.args.output_dir))

    def checkpoint_to_resume(self, say: Callable[[str], None]) -> Path | None:
        """`newest_checkpoint`, or the one that `resume_from_checkpoint` names, if it may be gone on from.

        Where the key names a checkpoint of another run, from which this one began, and this one has full checkpoints
        of its own, it goes on from these. All processes must call this, and get the same answer.

        Raises UserError for one that was written under another sharding.
        """
        folder = self._checkpoint_to_resume(say)
        if folder is not None:
            self._check_sharding(folder)
        return folder

    def _checkpoint_to_resume(self, say: Callable[[str], None]) -> Path | None:
        named = self.args.resume_from_checkpoint or ""
        if named.lower() in NOT_A_PATH:
            return self.newest_checkpoint(say)
        own = self._on_all_disks([path.name for path in complete_checkpoints(self.run_folder)[0]])
        if own and Path(named).parent.resolve() != self.run_folder.resolve():
            say(f"resume_from_checkpoint: this run began at {named} and has checkpoints of its own by now.")
            return self.newest_checkpoint(say)
        return self._named_checkpoint(Path(named), own)

    def newest_checkpoint(self, say: Callable[[str], None]) -> Path | None:
        """The newest full checkpoint of this run whose every byte is what was written, on every disk; None without.

        What is passed over is named. All processes must call this, and get the same answer.
        """
        names = self._on_all_disks([path.name for path in checkpoint_folders(self.run_folder)])
        for folder in sorted({self.run_folder / name for name in names}, key=checkpoint_step, reverse=True):
            if not (reasons := self._obstacles(folder)):
                say(f"going on from {folder}")
                return folder
            say(f"{folder} {' and '.join(reasons)} and is not used.")
        return None

    def _named_checkpoint(self, folder: Path, own: list[str]) -> Path:
        if reasons := self._obstacles(folder):
            raise UserError(
                f"resume_from_checkpoint: {folder} is not a complete checkpoint, it {' and '.join(reasons)}."
            )
        newer = sorted({name for name in own if checkpoint_step(Path(name)) > checkpoint_step(folder)})
        if newer:  # the next start would take one of them, which knows nothing of the steps to come
            raise UserError(
                f"resume_from_checkpoint: {', '.join(newer)} beside {folder} would be taken by the next start: remove "
                "what is newer, leave the key out to go on from the newest, or give another output_dir."
            )
        return folder

    def _check_sharding(self, folder: Path) -> None:
        """HF's Trainer would end with a traceback, or wait for ever, or go on with a fresh optimizer."""
        if self.is_deepspeed_enabled:
            under = ZERO
        elif self.is_fsdp_enabled:
            is_sharded = self.accelerator.state.fsdp_plugin.state_dict_type == StateDictType.SHARDED_STATE_DICT
            under = FSDP2_SHARDED if is_sharded else FSDP2_FULL
        else:
            under = WHOLE
        before = self._on_all_disks([written_under(folder)] if self.args.should_save else [])[0]
        if before != under:
            raise UserError(
                f"{folder} was written under {before} and this run is under {under}: launch it as before to go on, "
                f"with {LAUNCHED_BY[before]}."
            )

    def _obstacles(self, folder: Path) -> list[str]:
        """Why nobody can go on from `folder`, over all disks; each is read by one process."""
        reason = obstacle(folder) if self.args.should_save else None
        return sorted(set(self._on_all_disks([reason] if reason else [])))

    def _on_all_disks(self, found: list[str]) -> list[str]:
        """What the processes that write to a disk have found there, all together."""
        return [text for texts in gather_object([found if self.args.should_save else []]) for text in texts]

    def _prepare_for_training(self, *args):
        prepared = super()._prepare_for_training(*args)
        for call in self.on_accepted:
            call()
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        with numbers_only(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint):
        own_objects = []
        if self.args.optimizer_name.startswith("galore"):
            from galore_torch.galore_projector import GaLoreProjector

            own_objects.append(GaLoreProjector)
        with torch.serialization.safe_globals(own_objects), numbers_only(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint):
        if self.accelerator.scaler is not None:  # there is one under float16 alone
            with numbers_only(checkpoint):
                super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint):
        with numbers_only(checkpoint):
            super()._load_rng_state(checkpoint)

    def _issue_warnings_after_load(self, load_result):
        """HF warns, and trains on with weights that the checkpoint lacks as they were initialised."""
        missing = set(load_result.missing_keys) - set(self.model.all_tied_weights_keys)
        names = sorted(missing) + sorted(load_result.unexpected_keys)
        if names:
            raise UserError(f"the checkpoint's weights are another model's: {', '.join(names[:5])} are not in both.")
