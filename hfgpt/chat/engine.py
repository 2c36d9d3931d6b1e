"""The generation engine: a model and its tokenizer, from prompt tokens to text, streamed or batched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from jinja2.exceptions import TemplateError
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hfgpt.chat.decoding import Decoder, TransformersDecoder
from hfgpt.chat.gpt_decoder import GPTDecoder, is_plain_gpt
from hfgpt.chat.sampling import Sampling
from hfgpt.chat.token_choice import TokenChoice
from hfgpt.errors import UserError
from hfgpt.model.loading import load_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FinishReason = Literal["stop", "length"]


@dataclass
class Piece:
    """A bit of an answer as it is being generated: whole characters, never a special token's name."""

    text: str
    num_tokens: int  # generated since the piece before, special ones included
    finish_reason: FinishReason | None = None  # of the last piece: it said that it is done, or ran out of room


@dataclass
class Completion:
    """A whole answer. Its text is what `stream` gives, joined."""

    text: str
    token_ids: list[int]  # the end token included if it stopped by itself
    finish_reason: FinishReason
    log_probability: float  # nats, sum over token_ids, at temperature 1 and without penalty


class Step(NamedTuple):
    """One more token for the rows of a batch that still go on."""

    rows: list[int]
    tokens: list[int]
    log_probabilities: list[float]
    finish_reasons: list[FinishReason | None]


class Engine:
    """Generates with `model` as it is now: build another engine after further training. Threads may share an engine.

    `compile` lets torch.compile make the step of our own models. None is no: on a CPU it is slower than oneDNN's
    products, which it cannot take (benchmarks/decoding.md), and on a GPU it has not been measured.

    Raises UserError where model and tokenizer do not belong together.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, name: str = "", compile: bool | None = None
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.name = name or model.config.name_or_path or "the model"
        self.vocab_size = model.config.get_text_config().vocab_size
        if len(tokenizer) > self.vocab_size:
            raise UserError(
                f"The tokenizer of {self.name} has {len(tokenizer):,} tokens but the model {self.vocab_size:,}: they "
                "do not belong together."
            )
        self.max_length = _context_length(model, tokenizer)
        stop = model.generation_config.eos_token_id if model.generation_config else None
        stop = tokenizer.eos_token_id if stop is None else stop
        self.stop_ids = frozenset(stop if isinstance(stop, list) else () if stop is None else (stop,))
        # Our base models stop where another document would begin, too; that is how they are known.
        is_base = isinstance(stop, list) and tokenizer.bos_token_id in stop
        self.is_chat = tokenizer.chat_template is not None and not is_base
        self.decoder: Decoder
        if is_plain_gpt(model):
            self.decoder = GPTDecoder(model, compile=bool(compile))
        else:
            self.decoder = TransformersDecoder(model, tokenizer.pad_token_id or 0)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        trust_remote_code: bool = False,
        compile: bool | None = None,
    ) -> Engine:
        """The engine of a saved folder or a Hub id: ours, or any causal language model of transformers.

        `device` None is the GPU where there is one; `dtype` None is bfloat16 there and float32 on a CPU.
        Raises UserError if there is no such model, or it cannot be loaded.
        """
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if dtype is None:
            dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
        model = load_whole(str(name_or_path), dtype=dtype, trust_remote_code=trust_remote_code)
        try:
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
        except Exception as error:  # of huggingface_hub, tokenizers and the model's own code
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"the tokenizer of {name_or_path} cannot be loaded: {reason}") from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise UserError(
                f"The tokenizer of {name_or_path} has no fast version (tokenizer.json); name a model that has."
            )
        model.to(device)  # type: ignore[arg-type]
        return cls(model, tokenizer, name=str(name_or_path), compile=compile)

    def chat_ids(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> list[int]:
        """The tokens of a conversation by the model's chat template, up to where the assistant is to speak. Names of
        special tokens in what anyone says are read as plain text.

        Raises UserError where there is no template, or it refuses the messages.
        """
        if self.tokenizer.chat_template is None:
            raise UserError(f"{self.name} has no chat template: complete a text with it instead.")
        apply: Any = self.tokenizer.apply_chat_template
        try:
            return apply(messages, tools=tools, add_generation_prompt=True, sanitize_control_tokens=True)["input_ids"]
        except (TemplateError, ValueError) as error:
            raise UserError(f"The chat template of {self.name} refuses the messages: {error}") from error

    def text_ids(self, text: str) -> list[int]:
        """The tokens of a text to continue, after the BOS that the tokenizer puts there; names of special tokens in
        it are read as plain text. An empty text is BOS alone where there is one."""
        ids = self.tokenizer(text, split_special_tokens=True)["input_ids"]
        if not ids and self.tokenizer.bos_token_id is not None:
            return [self.tokenizer.bos_token_id]
        return ids

    def stream(self, prompt_ids: list[int], sampling: Sampling) -> Iterator[Piece]:
        """The answer piece by piece; the last piece has the finish reason. Closing the iterator ends the work.

        Raises UserError for a prompt that is empty or fills the context.
        """
        self.room(prompt_ids)  # now, not when the first piece is asked for
        return self._pieces(prompt_ids, sampling)

    def _pieces(self, prompt_ids: list[int], sampling: Sampling) -> Iterator[Piece]:
        text, waiting = TextStream(self.tokenizer), 0
        for step in self.steps([prompt_ids], sampling):
            waiting += 1
            (token,), (reason,) = step.tokens, step.finish_reasons
            if (new := text.append(token)) or reason:
                yield Piece(new, waiting, reason)
                waiting = 0

    def generate(self, prompts: list[list[int]], sampling: Sampling) -> list[Completion]:
        """An answer for every prompt, all decoded as one batch: memory grows with their number.

        Raises UserError for a prompt that is empty or fills the context.
        """
        completions = [Completion("", [], "length", 0.0) for _ in prompts]
        for step in self.steps(prompts, sampling, scored=True):
            for row, token, log_probability, reason in zip(*step, strict=True):
                completions[row].token_ids.append(token)
                completions[row].log_probability += log_probability
                completions[row].finish_reason = reason or "length"
        for completion in completions:
            text = TextStream(self.tokenizer)
            completion.text = "".join(map(text.append, completion.token_ids))
        return completions

    def steps(self, prompts: list[list[int]], sampling: Sampling, scored: bool = False) -> Iterator[Step]:
        """The decoding loop under `stream` and `generate`: a token for every row that still goes on, in any order. A
        row that has given its finish reason does not come again. Log probabilities are 0 unless `scored`."""
        room = [min(sampling.max_new_tokens, self.room(prompt)) for prompt in prompts]
        if not prompts:
            return
        # It draws all its numbers at once, and `max_new_tokens` may be far more than the context holds.
        sampling = replace(sampling, max_new_tokens=max(room))
        choice = TokenChoice(sampling, prompts, self.vocab_size, self.model.device)
        decoding = self.decoder.begin(prompts, max(room))
        if not decoding.logits.isfinite().all():
            raise UserError(f"{self.name} gives logits that are not finite: its weights are broken.")
        rows = list(range(len(prompts)))
        for length in range(1, max(room) + 1):
            tokens, log_probabilities = self._next_tokens(choice, decoding.logits, scored)
            ids = tokens.tolist()
            reasons: list[FinishReason | None] = [
                "stop" if token in self.stop_ids else "length" if length == room[row] else None
                for row, token in zip(rows, ids, strict=True)
            ]
            yield Step(rows, ids, log_probabilities, reasons)
            if any(reasons):
                staying = _without_finished(reasons)
                if not staying:
                    return
                rows = [rows[place] for place in staying]
                tokens = tokens[staying]
                choice.select(staying)
                decoding.select(staying)
            decoding.append(tokens)

    @staticmethod
    @torch.inference_mode()
    def _next_tokens(choice: TokenChoice, logits: torch.Tensor, scored: bool) -> tuple[torch.Tensor, list[float]]:
        tokens = choice.choose(logits)
        if not scored:
            return tokens, [0.0] * len(tokens)
        chosen = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        return tokens, (chosen - logits.logsumexp(-1)).tolist()

    def room(self, prompt_ids: list[int]) -> int:
        """How many tokens the context holds after this prompt, at least 1. Raises UserError for a prompt that is empty
        or fills the context."""
        if not prompt_ids:
            raise UserError("The prompt is empty: give at least one token.")
        if len(prompt_ids) >= self.max_length:
            raise UserError(
                f"The prompt has {len(prompt_ids):,} tokens and {self.name} reads {self.max_length:,} with its "
                "answer: shorten it."
            )
        return self.max_length - len(prompt_ids)


class TextStream:
    """Text out of tokens that come one by one: special tokens leave nothing, characters come when they are whole, and
    bytes at the end that never became one are dropped."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer.backend_tokenizer
        self.decoder = DecodeStream(skip_special_tokens=True)

    def append(self, token_id: int) -> str:
        return self.decoder.step(self.tokenizer, token_id) or ""


def _without_finished(reasons: list[FinishReason | None]) -> list[int]:
    """Places of the rows that go on. Those at the front stay where they are, and the last ones fill the gaps: so few
    rows move."""
    staying = [place for place, reason in enumerate(reasons) if reason is None]
    movers = iter(reversed(staying))
    return [place if reasons[place] is None else next(movers) for place in range(len(staying))]


def _context_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> int:
    """Tokens that the model can read. Configurations know the name max_position_embeddings, if only as an alias;
    models that have no such limit (BLOOM) leave it to their tokenizer, and else read 2,048 here."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit or min(tokenizer.model_max_length, 2048)
