"""A model's answers on disk as they come, so that an evaluation that was killed asks only what is still open."""

import json
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from hfgpt.training.record import read_records

Answer = tuple[float, bool] | str  # log-probability in nats and whether it is the greedy one, or the text generated


class AnswerLog:
    """The answers in a folder, which belongs to one model and one set of questions; every process adds to a file of
    its own, and begins with what is in all of them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.answers: dict[str, Answer] = {}
        for path in sorted(folder.glob("*.jsonl")):
            for record in read_records(path, key="key"):
                self._know(record["key"], record["answer"])
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{uuid4().hex}.jsonl").open("a", encoding="utf-8")

    def add_partial(self, method: str, request: Any, answer: Any) -> None:
        """What lm-eval's models call with each answer as they have it. `request` is the key of scored tokens, or the
        pair (prompt, settings) of a generation, which is kept only if it is greedy."""
        if not isinstance(request, str):
            if is_sampled(request[1]):
                return
            request = prompt_key(*request)
        self._know(request, answer)
        self._file.write(json.dumps({"key": request, "answer": answer}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _know(self, key: str, answer: Any) -> None:
        self.answers[key] = answer if isinstance(answer, str) else (float(answer[0]), bool(answer[1]))


def tokens_key(context: Sequence[int], continuation: Sequence[int]) -> str:
    """Stands for the question how probable `continuation` is after `context`."""
    return blake2b(np.array([len(context), *context, *continuation]).tobytes(), digest_size=16).hexdigest()


def prompt_key(prompt: str, settings: dict[str, Any]) -> str:
    """Stands for what is generated after `prompt` with these settings."""
    return blake2b(json.dumps([prompt, settings], sort_keys=True).encode(), digest_size=16).hexdigest()


def is_sampled(settings: dict[str, Any]) -> bool:
    """Whether settings of a generation draw at random, so that no answer stands for another."""
    return bool(settings.get("do_sample"))
