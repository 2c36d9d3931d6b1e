"""Preference pairs and checkable prompts as datasets: split by content, and without what does not fit into a row."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hfgpt.arguments import DataArguments
from hfgpt.data.preferences import preference_rows, prompt_rows
from hfgpt.data.prepared import digest_of
from hfgpt.data.splitting import is_validation
from hfgpt.errors import UserError

MAX_HELD_OUT = 2000


@dataclass(frozen=True)
class SplitRows:
    """Rows to train on and rows held out; `key` is a hash of them, `tokens_per_row` a mean over the training rows."""

    what: str
    train: Dataset
    validation: Dataset
    too_long: int
    tokens_per_row: float
    key: str

    def summary(self) -> str:
        """Counts in one line."""
        left_out = f"; {self.too_long:,} too long for data.max_length left out" if self.too_long else ""
        return f"{len(self.train):,} {self.what}, {len(self.validation):,} held out{left_out}"


def split_preferences(
    source: DataArguments, tokenizer: PreTrainedTokenizerBase, max_length: int, max_rows: int | None = None
) -> SplitRows:
    """Pairs with columns prompt, chosen and rejected (lists of messages), and tools where there are any.

    Held out are those that the source says are, or a share `validation_fraction` by a hash of the prompt. A pair of
    which one side has more than `max_length` tokens is left out and counted: cut, it would be judged by its start.
    Raises UserError where nothing is left.
    """

    def tokens_of(row: dict) -> list[int]:
        prompts = row["prompt"]
        return [
            len(tokenizer.apply_chat_template(prompts + row[side], tools=row.get("tools"), return_dict=False))
            for side in ("chosen", "rejected")
        ]

    held_out = None
    if source.dataset == "tinyworld":
        from hfgpt.data.tinyworld import held_out_preference_rows

        held_out = held_out_preference_rows(source)
    return _split("preference pairs", preference_rows(source), held_out, source, tokens_of, max_length, max_rows)


def split_prompts(
    source: DataArguments,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    max_rows: int | None = None,
    self_play: bool = False,
) -> SplitRows:
    """Prompts with columns prompt (a list of messages) and answer, of at most `max_length` tokens each.

    With `self_play` the training prompts ask the model of the tiny world for sums of its own; what is held out is the
    same. Raises UserError where nothing is left.
    """

    def tokens_of(row: dict) -> list[int]:
        return [len(tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False))]

    rows: Iterable[dict] = prompt_rows(source)
    held_out = None
    if source.dataset == "tinyworld":
        from hfgpt.data.tinyworld import held_out_prompt_rows, self_play_rows

        held_out = held_out_prompt_rows(source)
        rows = self_play_rows(source) if self_play else rows
    elif self_play:
        raise UserError("grpo.self_play needs the tiny world, whose sums a program can check: set dataset: tinyworld.")
    return _split("prompts", rows, held_out, source, tokens_of, max_length, max_rows)


def _split(
    what: str,
    rows: Iterable[dict],
    held_out: list[dict] | None,
    source: DataArguments,
    tokens_of: Callable[[dict], list[int]],
    max_length: int,
    max_rows: int | None,
) -> SplitRows:
    train: list[dict] = []
    validation: list[dict] = []
    tokens = too_long = 0

    def fitting(candidates: Iterable[dict]) -> Iterator[tuple[dict, int]]:
        nonlocal too_long
        for row in candidates:
            lengths = tokens_of(row)
            if max(lengths) > max_length:
                too_long += 1
            else:
                yield _without_empty(row), sum(lengths)

    for row, length in fitting(rows):
        by_hash = held_out is None and is_validation(json.dumps(row["prompt"]), source.validation_fraction)
        if by_hash and len(validation) < MAX_HELD_OUT:
            validation.append(row)
        elif not by_hash and len(train) != max_rows:
            train.append(row)
            tokens += length
        if len(train) == max_rows and (validation or held_out is not None or not source.validation_fraction):
            break
    validation += [row for row, _ in fitting(held_out or [])]
    if not train:
        where = source.data_path or source.dataset
        raise UserError(
            f"{where} has no {what} to train on: all {too_long:,} are too long, or held out, or none is there."
        )
    return SplitRows(
        what, Dataset.from_list(train), Dataset.from_list(validation), too_long, tokens / len(train), digest_of(train)
    )


def _without_empty(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}
