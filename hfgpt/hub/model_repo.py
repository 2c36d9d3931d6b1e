"""What of a model's folder goes to the Hub: the model, its tokenizer and code, the records of its training, a card.
Checkpoints, optimizer states and pickles stay behind."""

import logging
from pathlib import Path

import yaml

from hfgpt.errors import UserError
from hfgpt.hub.published_recipe import published_recipe
from hfgpt.hub.upload import CARD
from hfgpt.model.saved_files import SAVED_FILES, own_code, saved_files
from hfgpt.recipe import STAGES
from hfgpt.report.model_card import MADE_HERE, model_card, plain_card
from hfgpt.report.timeline import StageHistory, Timeline, open_timeline
from hfgpt.training.record import METRICS_FILE, read_records
from hfgpt.workspace import FINAL_METRICS, RECIPE_FILE

logger = logging.getLogger(__name__)

RECORDS = (
    *(METRICS_FILE, "evals.jsonl", "samples.jsonl", "loss.png"),
    *(FINAL_METRICS, RECIPE_FILE, "plan.json", "environment.json"),
)
# Files of an older push of another model, which a new one takes away. Other code in the repo is somebody's.
REPLACED = (*(pattern for pattern in SAVED_FILES if pattern != "LICENSE*"), *own_code(), *RECORDS)


def model_repo(
    folder: Path, repo_id: str, *, license: str | None = None, base_model: str | None = None
) -> dict[str, Path | bytes]:
    """{path in the repo: file or content} for the model in `folder`, whose card says `repo_id`.

    Raises UserError for a stage that is not complete and for a model that could not be loaded from the repo.
    """
    if (folder / METRICS_FILE).is_file() and not (folder / FINAL_METRICS).is_file():
        raise UserError(f"the stage in {folder} is not complete: finish it, or name one of its checkpoints.")
    pushed: dict[str, Path | bytes] = {**saved_files(folder)}
    if "tokenizer.json" not in pushed:
        logger.warning("%s has no tokenizer.json: the model goes without a tokenizer.", folder)
    pushed |= records_in(folder)
    pushed[CARD] = card(folder, repo_id, license, base_model).encode()
    return pushed


def records_in(folder: Path) -> dict[str, Path | bytes]:
    """{name: file or content} of what a stage recorded, as it goes to the Hub."""
    records: dict[str, Path | bytes] = {name: folder / name for name in RECORDS if (folder / name).is_file()}
    if RECIPE_FILE in records:
        records[RECIPE_FILE] = published_recipe(folder / RECIPE_FILE)
    return records


def card(folder: Path, repo_id: str, license: str | None, base_model: str | None) -> str:
    """The folder's README.md unless it is ours, else one made from what the stage left."""
    written = folder / CARD
    if written.is_file():
        text = written.read_text(encoding="utf-8")
        if MADE_HERE not in text:
            return _with_license(text, license, written)
    found = stage_of(folder)
    if found is None:
        return plain_card(folder, repo_id, license, base_model)
    return model_card(*found, repo_id=repo_id, license=license, base_model=base_model)


def stage_of(folder: Path) -> tuple[Timeline, StageHistory] | None:
    """The complete stage that `folder` is, in its run; None for any other model."""
    folder = folder.resolve()
    if folder.name not in STAGES or not read_records(folder / METRICS_FILE):
        return None
    timeline = open_timeline(folder.parent)
    return next(((timeline, stage) for stage in timeline.stages if stage.name == folder.name and stage.final), None)


def _with_license(text: str, license: str | None, path: Path) -> str:
    from huggingface_hub import ModelCard

    try:
        written = ModelCard(text, ignore_metadata_errors=False)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: the header is not YAML that the Hub reads ({reason}): mend or remove it.") from None
    if license is None or written.data.get("license") == license:
        return text
    written.data["license"] = license
    return str(written)
