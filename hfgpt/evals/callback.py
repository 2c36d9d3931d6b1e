"""Abilities of a model before the first and after the last step of a run, into evals.jsonl: lm-eval tasks, pass@k."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from hfgpt.evals.harness import evaluate_tasks
from hfgpt.evals.pass_at_k import measure_pass_at_k
from hfgpt.evals.scores import EVALS_FILE, Scores
from hfgpt.training.record import RunRecord


class ScoresCallback(TrainerCallback, ABC):
    """Measures at step 0 and at the last step, on all processes together, and appends to `evals.jsonl` what came out:
    `{"step", "tokens", "results": {task: {metric: value}}}`."""

    def __init__(self, folder: Path, record: RunRecord):
        self.path = folder / EVALS_FILE
        self.record = record

    @abstractmethod
    def measure(self, model: PreTrainedModel) -> Scores:
        """The scores of the model as it is."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            self._score(model, state, args.bf16)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == state.max_steps:
            self._score(model, state, args.bf16)

    def _score(self, model, state, bf16: bool) -> None:
        autocast = torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16)
        with self.record.paused(), autocast:
            results = self.measure(model)
        if state.is_world_process_zero:
            tokens = round(state.global_step * self.record.tokens_per_step)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, "tokens": tokens, "results": results}) + "\n")


class EvalTasksCallback(ScoresCallback):
    """Scores lm-eval `tasks`."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tasks: list[str],
        folder: Path,
        record: RunRecord,
        *,
        limit: int | None = None,
        batch_size: int = 64,
        metadata: dict[str, Any] | None = None,
    ):
        super().__init__(folder, record)
        self.tokenizer, self.tasks = tokenizer, tasks
        self.limit, self.batch_size, self.metadata = limit, batch_size, metadata

    def measure(self, model: PreTrainedModel) -> Scores:
        return evaluate_tasks(
            model, self.tokenizer, self.tasks, limit=self.limit, batch_size=self.batch_size, metadata=self.metadata
        )


class PassAtKCallback(ScoresCallback):
    """pass@k on prompts with a checkable answer, sampled as the policy samples."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[dict],
        reward: Callable,
        folder: Path,
        record: RunRecord,
        *,
        ks: Sequence[int],
        temperature: float,
        max_new_tokens: int,
        seed: int,
    ):
        super().__init__(folder, record)
        self.tokenizer, self.rows, self.reward = tokenizer, rows, reward
        self.ks, self.temperature, self.max_new_tokens, self.seed = tuple(ks), temperature, max_new_tokens, seed

    def measure(self, model: PreTrainedModel) -> Scores:
        scores = measure_pass_at_k(
            model,
            self.tokenizer,
            self.rows,
            self.reward,
            samples=max(self.ks),
            ks=self.ks,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
        )
        return {"pass_at_k": scores}
