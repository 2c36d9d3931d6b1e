"""Preference pairs and prompts with an answer that can be checked, out of the forms in which such data come, for DPO
and GRPO. Nothing here tokenizes."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from typing import Any

from hfgpt.arguments import DataArguments
from hfgpt.data.chat_rows import read_rows, row_shards
from hfgpt.data.conversations import (
    FINAL_ANSWER,
    LeftOut,
    checked,
    read_instruction,
    read_side,
    read_turns,
    renamed,
    text_in,
    tools_of,
    with_system,
)
from hfgpt.data.row_formats import json_type

_PROMPTS = ["prompt", "messages", "conversations", "question", "instruction", "input", "system"]
# Names that `data.columns` may give to a file's columns.
PREFERENCE_COLUMNS = ["chosen", "rejected", *_PROMPTS, "tools"]
PROMPT_COLUMNS = ["answer", *_PROMPTS]


def canonical_preference(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The pair in `row` as {"prompt": [...], "chosen": [...], "rejected": [...], "tools": [...] | None}, lists of
    messages as in conversations.py.

    `chosen` and `rejected` are text, a turn, or lists of turns. Where they are whole conversations, what they have in
    common is the prompt; otherwise it is in `prompt`, `messages`, `conversations`, `instruction` and `input`, or
    `question`. `columns` says which column holds what.

    Raises LeftOut where a turn is blank or both sides are the same, and ValueError, saying why, for what is no pair.
    """
    row = renamed(row, columns)
    for column in ("chosen", "rejected"):
        if column not in row:
            raise ValueError(
                f"no column '{column}' (columns there: {', '.join(row)}); set data.columns to say which hold the "
                "pair, as {chosen: NAME, rejected: NAME}"
            )
    chosen, rejected = (read_side(row[side], "assistant", side) for side in ("chosen", "rejected"))
    if not chosen or not rejected:
        raise LeftOut("rows_without_turns", "one side has no turns")
    if chosen == rejected:
        raise LeftOut("rows_with_equal_sides", "chosen and rejected are the same")
    if chosen[0]["role"] == rejected[0]["role"] == "assistant":
        prompt = _read_prompt(row)
    else:
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))))
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    prompt = with_system(row, prompt)
    for side, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer or answer[0]["role"] != "assistant":
            raise ValueError(f"'{side}' has no answer of the assistant where it parts from the other side")
        checked({"messages": prompt + answer})
    _check_prompt(prompt)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "tools": tools_of(row)}


def canonical_prompt(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The prompt in `row` with its answer as {"prompt": [...], "answer": str}.

    The prompt is in `question`, `prompt`, `messages`, `conversations`, or `instruction` and `input`. The answer of
    GSM8K is what follows `####`, without commas between its digits; a number becomes text. Raises as
    `canonical_preference`.
    """
    row = renamed(row, columns)
    answer = row.get("answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    if not isinstance(answer, str):
        raise ValueError(
            f"column 'answer' is of type {json_type(answer)}, not text (columns there: {', '.join(row)}); set "
            "data.columns to say which holds the answer that rewards are checked against, as {answer: NAME}"
        )
    if FINAL_ANSWER in answer:
        answer = re.sub(r"(?<=\d),(?=\d)", "", answer.rpartition(FINAL_ANSWER)[2])
    prompt = checked({"messages": with_system(row, _read_prompt(row))})["messages"]
    _check_prompt(prompt)
    return {"prompt": prompt, "answer": answer.strip()}


def preference_rows(data: DataArguments, counts: Counter | None = None) -> Iterator[dict[str, Any]]:
    """The pairs that section `data` names, in a fixed order. What is left out is added to `counts`:
    `rows_with_equal_sides`, and as in chat_rows.py. Raises UserError, naming file, row and reason."""
    if data.dataset == "tinyworld" and not data.data_path:
        from hfgpt.data import tinyworld

        return tinyworld.preference_rows(data)
    return _read_all(data, canonical_preference, PREFERENCE_COLUMNS, counts)


def prompt_rows(data: DataArguments, counts: Counter | None = None) -> Iterator[dict[str, Any]]:
    """The prompts with their answers that section `data` names, as `preference_rows` does it."""
    if data.dataset == "tinyworld" and not data.data_path:
        from hfgpt.data import tinyworld

        return tinyworld.prompt_rows(data)
    return _read_all(data, canonical_prompt, PROMPT_COLUMNS, counts)


def _read_all(
    data: DataArguments,
    read: Callable[[Any, Mapping[str, str]], dict],
    column_names: list[str],
    counts: Counter | None,
) -> Iterator[dict[str, Any]]:
    counts = Counter() if counts is None else counts
    for shard in row_shards(data, column_names):
        yield from read_rows(shard, lambda row: read(row, data.columns), counts)


def _read_prompt(row: Mapping[str, Any]) -> list[dict]:
    """The turns before the answer, from the first column that may hold them."""
    if row.get("prompt") is not None:
        return read_side(row["prompt"], "user", "prompt")
    for column in ("messages", "conversations"):
        if row.get(column) is not None:
            return read_turns(row[column], column)
    if row.get("question") is not None:
        return [{"role": "user", "content": text_in(row, "question")}]
    if row.get("instruction") is not None:
        return read_instruction(row)
    raise ValueError(
        f"no prompt in its columns ({', '.join(row)}): it should be in prompt, messages, conversations, question or "
        "instruction; set data.columns to say which holds it, as {prompt: NAME}"
    )


def _check_prompt(prompt: list[dict]) -> None:
    if not prompt or prompt[-1]["role"] not in ("user", "tool"):
        raise ValueError("its prompt does not end with a turn of the user, to which the assistant could answer")
