"""Abilities of a model while it trains, into evals.jsonl: lm-eval tasks and pass@k before the first step, in between
where asked for, and after the last. Training goes on as if nothing had been measured."""

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerState

from hfgpt.evals.harness import evaluate_tasks
from hfgpt.evals.pass_at_k import measure_pass_at_k
from hfgpt.evals.scores import EVALS_FILE, Scores
from hfgpt.training.record import RunRecord
from hfgpt.training.record_file import RecordFile


@dataclass(frozen=True)
class ScoringTimes:
    """When a stage is scored beside before its first step and after its last: every `every_steps` steps (0: never),
    and at the first step by which so many tokens of the stage were trained on as `at_tokens` says."""

    every_steps: int = 0
    at_tokens: Sequence[int] = ()

    def is_due(self, step: int, max_steps: int, tokens_before: int, tokens: int) -> bool:
        """Whether step `step` is such a step; it took the stage from `tokens_before` to `tokens`."""
        if step == max_steps or (self.every_steps and step % self.every_steps == 0):
            return True
        return any(tokens_before < count <= tokens for count in self.at_tokens)


class ScoresCallback(TrainerCallback, ABC):
    """Measures at its `times`, on all processes together, and appends to `evals.jsonl` what came out:
    `{"step", "tokens", "results": {task: {metric: value}}}`.

    A checkpoint is written after the scores of its step, so a run that goes on from it does not measure that step
    again. Random states, modes of modules and the device's memory are afterwards what they were.
    """

    def __init__(self, folder: Path, record: RunRecord, times: ScoringTimes):
        self.scores = RecordFile(folder / EVALS_FILE)
        self.record, self.times = record, times
        self.tokens = 0  # after the last step seen

    @abstractmethod
    def measure(self, model: PreTrainedModel) -> Scores:
        """The scores of the model as it is."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.tokens = self._tokens_at(state)
        if state.global_step == 0:
            self._score(model, state, args.bf16)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        before, self.tokens = self.tokens, self._tokens_at(state)
        if self.times.is_due(state.global_step, state.max_steps, before, self.tokens):
            self._score(model, state, args.bf16)

    def _tokens_at(self, state: TrainerState) -> int:
        """Tokens of the stage so far; GRPO's, of whose answers nobody knows the length before, TRL counts."""
        planned = round(state.global_step * self.record.tokens_per_step)
        return planned or int(state.num_input_tokens_seen)

    def _score(self, model: PreTrainedModel, state: TrainerState, bf16: bool) -> None:
        began = time.perf_counter()
        autocast = torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16)
        with self.record.paused():
            with autocast:
                results = self.measure(model)
            _release_memory(model.device)
        if state.is_world_process_zero:
            tqdm.write(f"{_in_words(state.global_step, results)} ({time.perf_counter() - began:.0f} s)")
            self.scores.append({"step": state.global_step, "tokens": self.tokens, "results": results})


def _release_memory(device: torch.device) -> None:
    """Gives back what measuring took: the allocator would keep its blocks, in sizes that training has no use for."""
    gc.collect()  # lm-eval's objects refer to each other
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _in_words(step: int, results: Scores) -> str:
    """The first metric of each task; a group stands for the tasks whose names begin with its own."""
    shown = {
        task: next(iter(scores.items()))
        for task, scores in results.items()
        if not any(task.startswith(f"{other}_") for other in results)
    }
    return f"step {step} scores | " + ", ".join(f"{task} {name} {value:.3f}" for task, (name, value) in shown.items())


class EvalTasksCallback(ScoresCallback):
    """Scores lm-eval `tasks`."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tasks: list[str],
        folder: Path,
        record: RunRecord,
        times: ScoringTimes,
        *,
        limit: int | None = None,
        batch_size: int = 32,
        metadata: dict[str, Any] | None = None,
    ):
        super().__init__(folder, record, times)
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
        times: ScoringTimes,
        *,
        ks: Sequence[int],
        temperature: float,
        max_new_tokens: int,
        seed: int,
    ):
        super().__init__(folder, record, times)
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
