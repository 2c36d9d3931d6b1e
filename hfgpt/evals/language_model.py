"""lm-eval's HuggingFace model around a model in memory: questions shared out over processes, as many at a time as fit,
answers kept where there is a log. Imports lm-eval, which takes a second."""

from __future__ import annotations

import contextlib
import copy
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
import torch
import torch.distributed as dist
from lm_eval.models.huggingface import HFLM
from torch.distributed.tensor import DTensor

from hfgpt.errors import UserError
from hfgpt.evals.answer_log import AnswerLog, is_sampled, prompt_key, tokens_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MEMORY_SHARE = 0.25  # of what is free when a batch is made: the estimate below is rough, and others use memory too
MOST_ROWS = 1024
CPU_TOKENS = 16_384  # more at a time is no faster on a CPU, and a progress bar would stand still


class InMemoryModel(HFLM):
    """HFLM takes a model in memory for a single process; this one shares the questions out over the default process
    group. `batch_size` None takes as many questions at a time as the free memory holds, more of shorter ones.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int | None,
        progress: bool = False,
        answers: AnswerLog | None = None,
    ):
        super().__init__(
            pretrained=model,
            tokenizer=copy.deepcopy(tokenizer),  # HFLM may give it a pad token
            batch_size=batch_size or "auto",
            softmax_dtype="float32",  # of bfloat16 logits; in bfloat16 the sum over a long answer would be rounded
            # Grouping questions by context saves work, but then processes differ in their number of forward passes,
            # at which sharded parameters are gathered by all.
            logits_cache=not any(isinstance(parameter, DTensor) for parameter in model.parameters()),
        )
        self.progress, self.answers = progress, answers
        if answers is not None:
            self.set_cache_hook(answers)
        if dist.is_available() and dist.is_initialized():
            self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        self._rows = self._next_batch = 0

    def loglikelihood(self, requests, disable_tqdm=False):
        return super().loglikelihood(requests, disable_tqdm=True)  # a bar for tokenizing; that for scoring comes below

    def _loglikelihood_tokens(self, requests, disable_tqdm=False, override_bs=None):
        if self.answers is None:
            return self._score(requests, override_bs)
        keys = [tokens_key(request[1], request[2]) for request in requests]
        unanswered = {
            key: _KeyedRequest(key, request)
            for key, request in zip(keys, requests, strict=True)
            if key not in self.answers.answers
        }
        if unanswered:
            self._score(list(unanswered.values()), override_bs)
        return [self.answers.answers[key] for key in keys]

    def _score(self, requests, override_bs):
        with self._bar():
            return super()._loglikelihood_tokens(requests, disable_tqdm=not self.progress, override_bs=override_bs)

    def generate_until(self, requests, disable_tqdm=False):
        """Raises UserError where an answer of the length that a task allows would leave no room for its question."""
        for request in requests:
            most = int(request.args[1].get("max_gen_toks", self.max_gen_toks))
            if most >= self.max_length:
                raise UserError(
                    f"{request.task_name} asks for answers of up to {most:,} tokens, but the model sees "
                    f"{self.max_length:,} at once: leave the task out."
                )
        unanswered = requests
        if self.answers is not None:
            unanswered = [request for request in requests if self._answer(request) is None]
        chosen = self.batch_size_per_gpu
        if chosen == "auto":
            self.batch_size_per_gpu = self.rows_that_fit(self.max_length)
        try:
            with self._bar():
                texts = super().generate_until(unanswered, disable_tqdm=not self.progress) if unanswered else []
        finally:
            self.batch_size_per_gpu = chosen
        generated = dict(zip(map(id, unanswered), texts, strict=True))
        return [generated[id(request)] if id(request) in generated else self._answer(request) for request in requests]

    def _answer(self, request):
        prompt, settings = request.args
        if self.answers is None or is_sampled(settings):
            return None
        return self.answers.answers.get(prompt_key(prompt, settings))

    def _bar(self):
        """Shows lm-eval's progress bar where it is wanted: around this, its other bars are silenced with stderr."""
        return contextlib.redirect_stderr(sys.__stderr__) if self.progress else contextlib.nullcontext()

    def all_gather(self, tensor):
        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(gathered, tensor)
        return torch.stack(gathered)

    def barrier(self):
        if self.world_size > 1:
            dist.barrier()

    def _batch_scheduler(self, pos, requests):
        """Questions in the batch that the one at `pos` belongs to; they come longest first, so that the first of a
        batch decides what it takes."""
        if pos in (0, self._next_batch):
            _, context, continuation = requests[pos]
            self._rows = self.rows_that_fit(min(len(context) + len(continuation), self.max_length))
            self._next_batch = pos + self._rows
        return self._rows

    def rows_that_fit(self, length: int) -> int:
        """How many rows of `length` tokens one forward pass takes, at least one."""
        tokens = MEMORY_SHARE * self._free_bytes() / self._bytes_per_token()
        if self.device.type == "cpu":
            tokens = min(tokens, CPU_TOKENS)
        return int(max(1, min(MOST_ROWS, tokens // length)))

    def _free_bytes(self) -> int:
        if self.device.type == "cuda":
            unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            return torch.cuda.mem_get_info(self.device)[0] + unused
        return psutil.virtual_memory().available

    def _bytes_per_token(self) -> float:
        """Logits in the model's precision and in float32, with their softmax, twice for the copies that a soft cap or
        a cast makes; about two dozen vectors of a block's, and the keys and values of all blocks."""
        config = self.model.config.get_text_config()
        per_number = self.model.dtype.itemsize
        logits = 2 * config.vocab_size * (per_number + 4)
        return logits + config.hidden_size * (24 + 2 * config.num_hidden_layers) * per_number


@dataclass(frozen=True)
class _KeyedRequest:
    """Tokens to score, as lm-eval indexes them: (strings, context, continuation), where the strings are what its model
    calls the answer by."""

    key: str
    request: Any

    def __getitem__(self, index: int) -> Any:
        return self.key if index == 0 else self.request[index]
