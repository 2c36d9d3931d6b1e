"""lm-eval scores of a model before the first and after the last step of a run, into evals.jsonl."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback

from hfgpt.evals.harness import evaluate_tasks
from hfgpt.training.record import RunRecord, read_records

EVALS_FILE = "evals.jsonl"


class EvalTasksCallback(TrainerCallback):
    """Scores `tasks` at step 0 and at the last step, on all processes together; scores stand in `evals.jsonl` as
    `{"step", "tokens", "results": {task: {metric: value}}}`."""

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
        self.tokenizer, self.tasks, self.record = tokenizer, tasks, record
        self.path = folder / EVALS_FILE
        self.limit, self.batch_size, self.metadata = limit, batch_size, metadata

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if state.is_world_process_zero:
            kept = [e for e in read_records(self.path) if e["step"] <= state.global_step]
            self.path.write_text("".join(json.dumps(e) + "\n" for e in kept), encoding="utf-8")
        if state.global_step == 0:
            self._score(model, state, args.bf16)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == state.max_steps:
            self._score(model, state, args.bf16)

    def _score(self, model, state, bf16: bool) -> None:
        autocast = torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16)
        with self.record.paused(), autocast:
            results = evaluate_tasks(
                model,
                self.tokenizer,
                self.tasks,
                limit=self.limit,
                batch_size=self.batch_size,
                metadata=self.metadata,
            )
        if state.is_world_process_zero:
            entry = {"step": state.global_step, "tokens": state.global_step * self.record.tokens_per_step}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry | {"results": results}) + "\n")
