"""What every side of a benchmark is given: the recipe's shape, batch and settings, and rows of random tokens."""

import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hfgpt.data.rows import RowCollator, collate_rows
from hfgpt.model.from_recipe import architecture_of, vocabulary_of
from hfgpt.recipe import Recipe
from hfgpt.training.arguments import PretrainArguments
from hfgpt.training.plan import Plan, make_plan

STAGE = "pretrain"
MAX_STEPS = 1_000_000  # of the schedule; a benchmark ends long before
DISTINCT_ROWS = 64
DOCUMENT_TOKENS = 1000  # about the mean of FineWeb-Edu: 10 billion tokens in 9.7 million documents
BOS_TOKEN_ID = 0
# A benchmark's training is training alone; what it writes goes to a folder that is thrown away.
QUIET = {"eval_strategy": "no", "save_strategy": "no", "report_to": "none", "disable_tqdm": True}


@dataclass(frozen=True)
class Workload:
    """One process's training as the recipe says it."""

    args: PretrainArguments
    architecture: dict[str, Any]
    attn_implementation: str | None
    plan: Plan
    rates: dict[str, float]
    cross_document_attention: bool

    @property
    def device(self) -> torch.device:
        return self.args.device

    @property
    def tokens_per_step(self) -> int:
        return self.plan.batch.tokens_per_step

    def rows(self) -> "SyntheticRows":
        return SyntheticRows(
            self.architecture["vocab_size"], self.plan.batch.max_length, MAX_STEPS * self.plan.batch.rows_per_step
        )

    def collator(self, with_lengths: bool) -> RowCollator:
        return collate_rows(BOS_TOKEN_ID, self.cross_document_attention, with_lengths)


def make_workload(recipe: Recipe) -> Workload:
    """The workload of the recipe's pretraining. Raises UserError for a recipe that cannot be trained."""
    data = recipe.data
    recipe.sections.setdefault(STAGE, {}).update(QUIET, output_dir=tempfile.gettempdir())
    args = recipe.section(STAGE, PretrainArguments, seed=data.seed)
    architecture = architecture_of(recipe.model, vocabulary_of(recipe), data.max_length)
    plan = make_plan(
        architecture,
        depth=recipe.model.depth,
        optimizer=args.optimizer_name,
        max_length=data.max_length,
        per_device_batch_size=args.per_device_train_batch_size,
        num_processes=1,
        grad_accum_steps=args.gradient_accumulation_steps,
        total_batch_size=args.total_batch_size,
        max_steps=MAX_STEPS,
        target_param_data_ratio=args.target_param_data_ratio,
        rates=args.given_rates(),
        rate_scale=args.rate_scale,
    )
    for name, rate in plan.rates.items():
        setattr(args, name, rate)
    args.max_steps, args.gradient_accumulation_steps = MAX_STEPS, plan.batch.grad_accum_steps
    args.per_device_train_batch_size = plan.batch.per_device_batch_size
    return Workload(
        args, architecture, recipe.model.attn_implementation, plan, dict(plan.rates), data.cross_document_attention
    )


class SyntheticRows(Dataset):
    """Packed rows of random tokens, a document's BOS at each row's start and about every DOCUMENT_TOKENS tokens."""

    def __init__(self, vocab_size: int, max_length: int, total_rows: int):
        random = np.random.default_rng(0)
        self.rows = random.integers(1, vocab_size, (DISTINCT_ROWS, max_length))
        self.rows[random.random(self.rows.shape) < 1 / DOCUMENT_TOKENS] = BOS_TOKEN_ID
        self.rows[:, 0] = BOS_TOKEN_ID
        self.total_rows = total_rows

    def __len__(self) -> int:
        return self.total_rows

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        return {"input_ids": self.rows[position % DISTINCT_ROWS]}
