"""Where a run's things lie: `runs/<recipe>/{tokenizer,data,pretrain,...}`, and which of its stages are complete."""

from dataclasses import dataclass
from pathlib import Path

from hfgpt.errors import UserError
from hfgpt.recipe import STAGES, Recipe

# Written last of all, so its presence means that the stage is complete.
FINAL_METRICS = "final_metrics.json"
RECIPE_FILE = "recipe.yaml"


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

    def shared(name: str) -> Path:
        usual = recipe.folder / name
        return usual if output_dir is None or usual.exists() else folder.parent / name

    return Workspace(tokenizer=shared("tokenizer"), data=shared("data"), stage=folder)


def start_stage(folder: Path, recipe: Recipe) -> None:
    """Make the stage's folder, no longer complete if it was, with the recipe as it is run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FINAL_METRICS).unlink(missing_ok=True)
    (folder / RECIPE_FILE).write_text(recipe.as_text(), encoding="utf-8")


def stage_before(recipe: Recipe, stage: str) -> Path | None:
    """Folder of the nearest earlier stage that the recipe names; None for the first."""
    named = [s for s in STAGES[: STAGES.index(stage)] if s in recipe.sections]
    return recipe.folder / named[-1] if named else None
