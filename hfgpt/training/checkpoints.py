"""Checkpoints that are either complete or invisible: written aside, marked, then renamed into place.

HF's Trainer writes straight into `checkpoint-N` and takes the highest N on resume, complete or not.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from torch.distributed.fsdp import StateDictType
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hfgpt.errors import UserError

COMPLETE_MARK = "COMPLETE"
STAGING = "checkpoint-being-written"


class CompleteCheckpoints(Trainer):
    """A Trainer whose checkpoint folders carry the mark COMPLETE (the size of every file) or do not exist."""

    _staging: Path | None = None

    def _get_output_dir(self, trial):
        return str(self._staging) if self._staging else super()._get_output_dir(trial)

    def save_model(self, output_dir=None, _internal_call=False):
        """The stage's result is a whole model folder however the run's checkpoints are written."""
        if not self.is_fsdp_enabled or _internal_call:
            return super().save_model(output_dir, _internal_call)
        plugin = self.accelerator.state.fsdp_plugin
        of_checkpoints = plugin.state_dict_type
        plugin.state_dict_type = StateDictType.FULL_STATE_DICT  # under any other HF writes nothing, without a word
        try:
            super().save_model(output_dir, _internal_call)
        finally:
            plugin.state_dict_type = of_checkpoints

    def _save_checkpoint(self, model, trial):
        run_folder = Path(self.args.output_dir)
        staging = run_folder / STAGING
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging = staging
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            mark_complete(staging / name)
            shutil.rmtree(run_folder / name, ignore_errors=True)
            os.replace(staging / name, run_folder / name)
            shutil.rmtree(staging)
            remove_old_checkpoints(run_folder, self.args.save_total_limit)
        self.accelerator.wait_for_everyone()


def mark_complete(folder: Path) -> None:
    """Sync every file of `folder` to disk and write the mark that lists their sizes in bytes."""
    sizes = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[str(path.relative_to(folder))] = path.stat().st_size
    temporary = folder / f"{COMPLETE_MARK}.tmp"
    temporary.write_text(json.dumps({"files": sizes}, indent=1), encoding="utf-8")
    os.replace(temporary, folder / COMPLETE_MARK)


def missing_pieces(folder: Path) -> list[str]:
    """What keeps a checkpoint from being complete: the mark itself, or files that are absent or of another size."""
    try:
        sizes = json.loads((folder / COMPLETE_MARK).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return [COMPLETE_MARK]
    return [
        name for name, size in sizes.items() if not (folder / name).is_file() or (folder / name).stat().st_size != size
    ]


def checkpoint_step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def complete_checkpoints(run_folder: Path) -> tuple[list[Path], dict[Path, list[str]]]:
    """Complete checkpoints of a run, oldest first, and what the others lack."""
    complete, incomplete = [], {}
    for folder in run_folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if folder.is_dir() and folder.name.rpartition("-")[2].isdigit():
            missing = missing_pieces(folder)
            if missing:
                incomplete[folder] = missing
            else:
                complete.append(folder)
    return sorted(complete, key=checkpoint_step), incomplete


def checkpoint_to_resume(run_folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest complete checkpoint, None if there is none; incomplete ones are named and passed over."""
    complete, incomplete = complete_checkpoints(run_folder)
    for folder, missing in incomplete.items():
        say(f"{folder} is incomplete ({', '.join(missing)}) and is not used.")
    if not complete:
        return None
    say(f"going on from {complete[-1]}")
    return complete[-1]


def named_checkpoint(named: str | None) -> Path | None:
    """The checkpoint that `resume_from_checkpoint` names; UserError if it is not a complete one."""
    if named is None or named.lower() in {"true", "false"}:
        return None
    missing = missing_pieces(Path(named))
    if missing:
        raise UserError(
            f"resume_from_checkpoint: {named} is not a complete checkpoint ({', '.join(missing)} missing)."
        )
    return Path(named)


def remove_old_checkpoints(run_folder: Path, limit: int | None) -> None:
    """Keep the newest `limit` complete checkpoints (all when null or 0)."""
    complete, _ = complete_checkpoints(run_folder)
    for folder in complete[:-limit] if limit else []:
        shutil.rmtree(folder)
