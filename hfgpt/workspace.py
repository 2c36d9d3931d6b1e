"""Where a run's things lie: `runs/<recipe>/{tokenizer,data,pretrain,...}`, and which of its stages are complete."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfgpt.errors import UserError
from hfgpt.recipe import STAGES, Recipe
from hfgpt.run_identity import IDENTITY_FILE, RECIPE_FILE, refuse_changes
from hfgpt.run_job import JOB_FILE, is_begun_by_this_job, note_job
from hfgpt.stage_lock import hold
from hfgpt.whole_files import write_whole

# Written last of all, so its presence means that the stage is complete.
FINAL_METRICS = "final_metrics.json"
PLAN_FILE = "plan.json"  # the length that a stage set out for
# What --overwrite removes: by exact names, since output_dir may be a folder with other things in it.
LEFT_BY_A_RUN = (
    *(
        "checkpoint-[0-9]*",
        "checkpoint-being-written",
        "being-pushed",
        "metrics.jsonl",
        "samples.jsonl",
        "evals.jsonl",
    ),
    *(FINAL_METRICS, IDENTITY_FILE, PLAN_FILE, JOB_FILE, "environment.json", "loss.png"),
)


@dataclass(frozen=True)
class Workspace:
    """Folders of one recipe's tokenizer, prepared data and one stage."""

    tokenizer: Path
    data: Path
    stage: Path

    @property
    def is_complete(self) -> bool:
        return (self.stage / FINAL_METRICS).is_file()


def workspace(recipe: Recipe, stage: str) -> Workspace:
    """The folders for `stage`; with `output_dir` set, tokenizer and data lie beside it unless the recipe has them."""
    output_dir = recipe.sections.get(stage, {}).get("output_dir")
    folder = Path(output_dir) if output_dir else recipe.folder / stage
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; output_dir must be a folder.")
    checkpoint = recipe.sections.get(stage, {}).get("resume_from_checkpoint")
    if recipe.run.overwrite and isinstance(checkpoint, str) and checkpoint.lower() not in {"true", "false"}:
        place = recipe.place(stage, "resume_from_checkpoint")
        raise UserError(f"{place} {checkpoint}: --overwrite begins anew, so leave out one of the two.")

    def shared(name: str) -> Path:
        usual = recipe.folder / name
        return usual if output_dir is None or usual.exists() else folder.parent / name

    return Workspace(tokenizer=shared("tokenizer"), data=shared("data"), stage=folder)


def begins_anew(folder: Path, recipe: Recipe) -> bool:
    """Whether `--overwrite` is to remove what lies in the stage's folder. Not where the job that it was given to has
    begun there already and was started again, by Slurm or by its launcher: the command then goes on."""
    return recipe.run.overwrite and not is_begun_by_this_job(folder)


def prepare_start(folder: Path, recipe: Recipe, identity: dict[str, Any], checkpoint: str | None = None) -> None:
    """Make sure that a stage may start in its folder, and hold it until the stage or this process ends.

    With `--overwrite` what an earlier run left there is removed. Otherwise `identity`, which decides every step, must
    be that of the run that began there, or else of the run to which the `checkpoint` belongs that it is to go on from:
    raises UserError naming what differs, and so if another process trains there, before anything is changed.
    """
    if begins_anew(folder, recipe):
        hold(folder)
        for left in LEFT_BY_A_RUN:
            for path in folder.glob(left):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    if begun := begun_run(folder, recipe, checkpoint):
        refuse_changes(begun, recipe, identity)
    hold(folder)


def begun_run(folder: Path, recipe: Recipe, checkpoint: str | None = None) -> Path | None:
    """The stage's folder that a run is to go on from: its own, or else the `checkpoint`'s. None for a new run."""
    if begins_anew(folder, recipe):
        return None
    begun = folder if checkpoint is None or any(folder.glob("checkpoint-[0-9]*")) else Path(checkpoint).parent
    return begun if (begun / IDENTITY_FILE).is_file() and any(begun.glob("checkpoint-[0-9]*")) else None


def note_start(folder: Path, recipe: Recipe, identity: dict[str, Any]) -> None:
    """Leave the recipe as it is run and the run's `identity` in the stage's folder, no longer complete if it was."""
    write_whole(folder / IDENTITY_FILE, json.dumps(identity, indent=1))
    note_job(folder)
    (folder / FINAL_METRICS).unlink(missing_ok=True)
    write_whole(folder / RECIPE_FILE, recipe.as_text())


def stage_before(recipe: Recipe, stage: str) -> Path | None:
    """Folder of the nearest earlier stage that the recipe names; None for the first."""
    named = [s for s in STAGES[: STAGES.index(stage)] if s in recipe.sections]
    return recipe.folder / named[-1] if named else None
