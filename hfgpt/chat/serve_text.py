"""What clients see of an answer: text up to the first stop string, and calls of tools, which never show as text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers.cli.serving.utils import ToolCall

from hfgpt.chat.engine import Engine, Piece, TextStream
from hfgpt.chat.sampling import Sampling

PYTHON, TOOL = "<|python|>", "<|tool|>"  # an assistant calls with <|python|>expression, or <|tool|> and a JSON object


@dataclass
class CallPiece(Piece):
    """Where the answer calls a tool: its text is empty."""

    call: ToolCall | None = None


def pieces_with_calls(engine: Engine, prompt_ids: list[int], sampling: Sampling) -> Iterator[Piece]:
    """As `engine.stream`, but each call of a tool comes as one CallPiece. A call that was cut off, or cannot be read,
    is text."""
    vocab = engine.tokenizer.get_added_vocab()
    names = {vocab[name]: name for name in (PYTHON, TOOL) if name in vocab}
    text, waiting = TextStream(engine.tokenizer), 0
    name, written = "", ""  # of the call that has begun: its token, and what came after it
    for step in engine.steps([prompt_ids], sampling):
        (token,), (reason,) = step.tokens, step.finish_reasons
        waiting += 1
        new = text.append(token)
        if name and not (reason or token in names):
            written += new
            continue
        if name:
            call = None if reason == "length" else _read_call(name, written)
            yield CallPiece("", 0, call=call) if call else Piece(written + new, 0)
            name, written, new = "", "", ""
        name = names.get(token, "")
        if new or reason:
            yield Piece(new, waiting, reason)
            waiting = 0


def _read_call(name: str, written: str) -> ToolCall | None:
    """The call that a model made by writing this; None if it is none."""
    if name == PYTHON:
        return ToolCall("python", json.dumps({"expression": written}, ensure_ascii=False))
    try:
        call = json.loads(written)
        return ToolCall(str(call["name"]), json.dumps(call["arguments"], ensure_ascii=False))
    except (ValueError, RecursionError, LookupError, TypeError):
        return None


class TextUntil:
    """Text that comes in bits, up to the first of `stops`. What may be the beginning of a stop is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = stops
        self.held = ""
        self.found = False

    def append(self, text: str) -> str:
        """The text that can be shown now that `text` has come."""
        self.held += text
        places = [place for stop in self.stops if (place := self.held.find(stop)) >= 0]
        if places:
            self.found = True
            self.held = self.held[: min(places)]
            return self.rest()
        kept = max((_overlap(self.held, stop) for stop in self.stops), default=0)
        shown, self.held = self.held[: len(self.held) - kept], self.held[len(self.held) - kept :]
        return shown

    def rest(self) -> str:
        """What is held back, to be shown when nothing more comes."""
        text, self.held = self.held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
