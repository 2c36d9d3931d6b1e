"""The texts of CORE: which questions are asked, with which examples before them, and how they are written.
Every draw and every delimiter is that of nanochat's evaluator, so that its scores are ours."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from hfgpt.evals.core.bundle import TaskSpec

SHUFFLE_SEED = 1337
FEWSHOT_SEED = 1234  # plus the question's index

Row = dict[str, Any]


def shuffled(rows: Sequence[Row]) -> list[Row]:
    """The rows in the order in which they are asked; a limit takes the first of them."""
    rows = list(rows)
    random.Random(SHUFFLE_SEED).shuffle(rows)
    return rows


def fewshot_indices(index: int, num_questions: int, num_fewshot: int) -> list[int]:
    """The questions whose answers stand before question `index`: drawn from all others."""
    others = random.Random(FEWSHOT_SEED + index).sample(range(num_questions - 1), num_fewshot)
    return [other + (other >= index) for other in others]


def prompts(spec: TaskSpec, row: Row, examples: Sequence[Row]) -> list[tuple[str, str]]:
    """One (context, continuation) for each option, one for a language modelling question; the prompt is the two
    joined."""
    before = "".join(f"{_answered(spec, example)}\n\n" for example in examples)
    if spec.kind == "multiple_choice":
        return [(f"{before}{row['query']}{spec.delimiter}", str(choice)) for choice in row["choices"]]
    continuation = row["continuation"]
    if spec.kind == "schema":
        return [(f"{before}{context}", f"{spec.delimiter}{continuation}") for context in row["context_options"]]
    return [(f"{before}{row['context'].strip()}{spec.delimiter}", continuation)]


def _answered(spec: TaskSpec, row: Row) -> str:
    """A question with its right answer."""
    if spec.kind == "multiple_choice":
        return f"{row['query']}{spec.delimiter}{row['choices'][row['gold']]}"
    if spec.kind == "schema":
        return f"{row['context_options'][row['gold']]}{spec.delimiter}{row['continuation']}"
    return f"{row['context'].strip()}{spec.delimiter}{row['continuation']}"
