"""Going on from a checkpoint: the newest that is whole to the last byte, on every disk, and nothing unpickled from it.

HF's Trainer takes the highest number, complete or not, and goes on without what is missing.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import Trainer

from hfgpt.errors import UserError
from hfgpt.training.arguments import StageArguments
from hfgpt.training.checkpoints import checkpoint_folders, checkpoint_step, complete_checkpoints, obstacle
from hfgpt.training.numbers_only import numbers_only

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
        """
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
