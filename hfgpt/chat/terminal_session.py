"""The state of a terminal chat: settings, conversations, and a reply that is measured as it comes. Draws nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hfgpt.chat.answering import CalculatorPiece, Message, answer, complete
from hfgpt.chat.engine import Engine, Piece
from hfgpt.chat.sampling import Sampling
from hfgpt.data.tokenizer import well_formed
from hfgpt.errors import UserError

INTERRUPTED = "interrupted"


@dataclass
class Settings:
    """What every conversation of the chat answers with."""

    sampling: Sampling
    best_of: int = 1
    calculator: bool = False
    system: str = ""


class Reply:
    """An answer: iterating over it gives its pieces as they come, and fills in what is measured and what was said.

    `text`, `num_tokens`, `seconds` and `seconds_to_first_token` (only time spent in the model counts, so that two
    replies drawn in turn are measured rightly), and `finish_reason`: the engine's "stop" or "length", or
    "interrupted" as long as it has not ended. `begin` gives the engine's pieces, and is called at the first step.
    """

    def __init__(self, begin: Callable[[], Iterator[Piece]]) -> None:
        self._begin = begin
        self._pieces: Iterator[Piece] | None = None
        self._tokens_of_first_piece = 0
        self._turns_before: list[Message] = []  # calls of the calculator, and its results
        self._text_of_turn = ""
        self.text = ""
        self.num_tokens = 0
        self.seconds = 0.0
        self.seconds_to_first_token = 0.0
        self.finish_reason = INTERRUPTED

    def __iter__(self) -> Iterator[Piece]:
        while (piece := self.step()) is not None:
            yield piece

    def step(self) -> Piece | None:
        """The next piece, None at the end. Raises UserError, at the first step, for what cannot be answered."""
        start = time.perf_counter()
        if self._pieces is None:
            self._pieces = self._begin()
        piece = next(self._pieces, None)
        self.seconds += time.perf_counter() - start
        if piece is None:
            return None
        if not self.num_tokens:
            self.seconds_to_first_token = self.seconds
            self._tokens_of_first_piece = piece.num_tokens
        self.num_tokens += piece.num_tokens
        self.finish_reason = piece.finish_reason or self.finish_reason
        self.text += piece.text
        self._text_of_turn += piece.text
        if isinstance(piece, CalculatorPiece):
            call = {"type": "function", "function": {"name": "python", "arguments": {"expression": piece.expression}}}
            self._turns_before += [
                {"role": "assistant", "content": self._text_of_turn, "tool_calls": [call]},
                {"role": "tool", "name": "python", "content": piece.result},
            ]
            self._text_of_turn = ""
        return piece

    def messages(self) -> list[Message]:
        """What was said, in HF's canonical form; empty where nothing came."""
        last = [{"role": "assistant", "content": self._text_of_turn}] if self._text_of_turn else []
        return self._turns_before + last

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of decoding: the tokens after the first piece over the seconds after it; None where there are none."""
        tokens = self.num_tokens - self._tokens_of_first_piece
        return tokens / (self.seconds - self.seconds_to_first_token) if tokens else None


class Exchange(NamedTuple):
    prompt: str
    answer: list[Message]


@dataclass
class Conversation:
    """One model's turns. A chat model answers in turns; a base model continues each text by itself."""

    engine: Engine
    settings: Settings
    exchanges: list[Exchange] = field(default_factory=list)

    def ask(self, prompt: str) -> Reply:
        """The reply to `prompt`, not begun yet."""
        settings = self.settings
        prompt = well_formed(prompt)
        if not self.engine.is_chat:
            return Reply(lambda: complete(self.engine, prompt, settings.sampling, best_of=settings.best_of))
        turns = self.messages() + [{"role": "user", "content": prompt}]
        return Reply(
            lambda: answer(
                self.engine, turns, settings.sampling, calculator=settings.calculator, best_of=settings.best_of
            )
        )

    def keep(self, prompt: str, reply: Reply) -> None:
        """Make the exchange part of the conversation, unless nothing came."""
        if answer := reply.messages():
            self.exchanges.append(Exchange(well_formed(prompt), answer))

    def messages(self) -> list[Message]:
        """The conversation in HF's canonical form, the system's turn first where there is one."""
        system = self.settings.system
        turns: list[Message] = [{"role": "system", "content": system}] if system else []
        for exchange in self.exchanges:
            turns += [{"role": "user", "content": exchange.prompt}, *exchange.answer]
        return turns

    def rows(self) -> list[dict]:
        """The conversation as rows of SFT data: {"messages"}, or one {"prompt", "completion"} for each text that a
        base model continued."""
        if not self.exchanges:
            return []
        if self.engine.is_chat:
            return [{"messages": self.messages()}]
        return [{"prompt": prompt, "completion": answer[-1]["content"]} for prompt, answer in self.exchanges]


@dataclass
class Session:
    """The chat as a whole: its settings, its conversation, and the two that are compared while /compare is on."""

    settings: Settings
    conversation: Conversation
    compared: list[Conversation] = field(default_factory=list)
    saved: set[Path] = field(default_factory=set)

    @property
    def conversations(self) -> list[Conversation]:
        """Those that the next prompt goes to."""
        return self.compared or [self.conversation]

    def save(self, file: Path) -> int:
        """Write the conversations to `file` as JSON (a list of rows) or JSON lines (.jsonl); returns the turns.

        Raises UserError where there is nothing to save, for a file that was there before this chat, and for one that
        cannot be written.
        """
        rows = [row for conversation in self.conversations for row in conversation.rows()]
        if not rows:
            raise UserError("there is nothing to save yet.")
        if file.exists() and file.resolve() not in self.saved:
            raise UserError(f"{file} exists already: give another name.")
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        text = "\n".join(lines) if file.suffix == ".jsonl" else "[\n" + ",\n".join(lines) + "\n]"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{file} cannot be written: {error.strerror}.") from None
        self.saved.add(file.resolve())
        return sum(len(conversation.exchanges) for conversation in self.conversations)
