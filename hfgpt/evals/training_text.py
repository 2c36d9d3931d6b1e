"""What the stages of a run trained on, as text: prepared rows decoded, preference pairs and prompts rendered, a batch
at a time. Reads the rows that a stage's identity.json names."""

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hfgpt.data.preparation import prepared_folder
from hfgpt.data.prepared import open_prepared, tokenizer_identity
from hfgpt.errors import UserError
from hfgpt.recipe import STAGES, Recipe, load_recipe
from hfgpt.training.record import METRICS_FILE, read_records
from hfgpt.whole_files import read_object
from hfgpt.workspace import FINAL_METRICS, IDENTITY_FILE, RECIPE_FILE

if TYPE_CHECKING:
    from datasets import Dataset

BATCH_ROWS = 64

Batch = list[np.ndarray] | list[str]  # rows of token ids, or texts


def complete_stages(run_folder: Path) -> list[str]:
    """The stages that the run in `run_folder` has finished, in order."""
    return [stage for stage in STAGES if (run_folder / stage / FINAL_METRICS).is_file()]


def recipe_as_run(run_folder: Path, stage: str) -> Recipe:
    """The recipe as `stage` was run, flags included."""
    return load_recipe([str(run_folder / stage / RECIPE_FILE), "--output_root", str(run_folder.parent)])


def training_batches(run_folder: Path, stage: str) -> Iterator[Batch]:
    """All that the complete `stage` had to train on, also what lay beyond its last step.

    Raises UserError where its rows are no longer there, or, of pairs and prompts, which are read anew, not the same.
    """
    recipe = recipe_as_run(run_folder, stage)
    key = read_object(run_folder / stage / IDENTITY_FILE)["rows"]
    if stage == "pretrain" and recipe.data.streaming:
        return _streamed(recipe, run_folder / stage)
    if stage in ("pretrain", "midtrain"):
        folders = _prepared_folders(run_folder, stage, recipe)
        return (batch for folder in folders for batch in _id_batches(_packed_rows(folder, stage)))
    if stage == "sft":
        return _id_batches(_conversations(run_folder / "data" / key))
    return _batches(_rendered(recipe, run_folder / stage, stage, key))


def tokens_to_read(run_folder: Path) -> int:
    """Tokens of all that the complete stages had to train on, as far as prepared rows tell without being read; of
    streams, pairs and prompts, those that were seen."""
    return sum(_tokens_of(run_folder, stage) for stage in complete_stages(run_folder))


def _prepared_folders(run_folder: Path, stage: str, recipe: Recipe) -> list[Path]:
    """Where the rows lie that the stage named; some of them were prepared elsewhere."""
    if stage == "pretrain" and recipe.data.prepared:
        return [prepared_folder(recipe.data)]
    key = read_object(run_folder / stage / IDENTITY_FILE)["rows"]
    return [run_folder / "data" / name for name in _listed(key)]


def _tokens_of(run_folder: Path, stage: str) -> int:
    prepared = [
        open_prepared(folder) for folder in _prepared_folders(run_folder, stage, recipe_as_run(run_folder, stage))
    ]
    known = [rows.statistics["train"]["tokens"] for rows in prepared if rows and "train" in rows.statistics]
    seen = max((record.get("tokens", 0) for record in read_records(run_folder / stage / METRICS_FILE)), default=0)
    return max(sum(known), seen)


class Decoder:
    """Batches of rows as texts, cut where a document begins; a space stands for every special token. Texts pass, with
    the same spaces. `tokenizer_folder` holds the tokenizer of the rows."""

    def __init__(self, tokenizer_folder: Path):
        self.tokenizer_folder = tokenizer_folder
        self.bos_token_id = tokenizer_identity(tokenizer_folder).bos_token_id

    @cached_property
    def _tokenizer(self):
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self.tokenizer_folder / "tokenizer.json"))

    @cached_property
    def _special(self) -> re.Pattern:
        special = [str(token) for token in self._tokenizer.get_added_tokens_decoder().values() if token.special]
        return re.compile("|".join(map(re.escape, special)))

    def __call__(self, batch: Batch) -> list[str]:
        texts = [item for item in batch if isinstance(item, str)]
        if not texts:
            pieces = [
                piece.tolist()
                for row in batch
                for piece in np.split(row, np.flatnonzero(np.asarray(row) == self.bos_token_id))
                if len(piece)
            ]
            texts = self._tokenizer.decode_batch(pieces, skip_special_tokens=False)
        return [self._special.sub(" ", text) for text in texts]

    def __getstate__(self) -> dict[str, Any]:
        return {"tokenizer_folder": self.tokenizer_folder, "bos_token_id": self.bos_token_id}


def _listed(key: str | list[str]) -> list[str]:
    return key if isinstance(key, list) else [key]


def _packed_rows(folder: Path, stage: str) -> "Dataset":
    prepared = open_prepared(folder)
    if prepared is None:
        raise UserError(f"the rows that {stage} trained on are not in {folder} any more: prepare the text again.")
    return prepared.train()


def _conversations(folder: Path) -> "Dataset":
    from datasets import Dataset

    file = folder / "train.arrow"
    if not file.is_file():
        raise UserError(f"the conversations that sft trained on are not in {folder} any more: run sft again.")
    return Dataset.from_file(str(file))


def _id_batches(rows: "Dataset") -> Iterator[list[np.ndarray]]:
    ids = rows.select_columns("input_ids").with_format("numpy")
    return (list(batch["input_ids"]) for batch in ids.iter(BATCH_ROWS))


def _streamed(recipe: Recipe, folder: Path) -> Iterator[list[np.ndarray]]:
    """The rows that a stream gave out: they lie nowhere, and are made again."""
    from hfgpt.data.stream import StreamedRows

    tokens = read_records(folder / METRICS_FILE)[-1]["tokens"]
    rows = StreamedRows(recipe.data, folder, tokens // recipe.data.max_length)
    return _batches(row["input_ids"] for row in rows)


def _rendered(recipe: Recipe, folder: Path, stage: str, key: str) -> Iterator[str]:
    """Preference pairs, each side with its prompt, or prompts with their answer."""
    from hfgpt.data.chat_splits import split_preferences, split_prompts
    from hfgpt.data.tokenizer import load_tokenizer
    from hfgpt.training.chat_arguments import DpoArguments, GrpoArguments

    tokenizer, data = load_tokenizer(folder, add_chat_tokens=False), recipe.data
    if stage == "dpo":
        dpo = recipe.section(stage, DpoArguments, max_length=data.max_length, output_dir=str(folder))
        rows = split_preferences(dpo.source(data), tokenizer, data.max_length, dpo.max_rows)
    else:
        grpo = recipe.section(stage, GrpoArguments, output_dir=str(folder))
        room = data.max_length - grpo.max_completion_length
        rows = split_prompts(grpo.source(data), tokenizer, room, grpo.max_rows, grpo.self_play)
    if rows.key != key:
        raise UserError(f"the {rows.what} that {stage} trained on have changed since: what it saw cannot be told.")
    for row in rows.train:
        answers = (
            [row["chosen"], row["rejected"]] if stage == "dpo" else [[{"role": "assistant", "content": row["answer"]}]]
        )
        for answer in answers:
            yield str(tokenizer.apply_chat_template(row["prompt"] + answer, tools=row.get("tools"), tokenize=False))


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    items = iter(items)
    return iter(lambda: list(islice(items, BATCH_ROWS)), [])
