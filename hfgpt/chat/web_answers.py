"""What happens between a visitor's question and the page: limits, the stream of answers, their figures. No gradio.

Everything that a page shows of a model's or a visitor's text goes through `as_text`.
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfgpt.chat.answering import CalculatorPiece, answer, complete
from hfgpt.chat.sampling import Sampling
from hfgpt.errors import UserError

if TYPE_CHECKING:
    from hfgpt.chat.engine import Engine

SECONDS_BETWEEN_UPDATES = 0.05  # smooth to the eye; one update a token would only load the network
MAX_MESSAGES = 100  # of one conversation that are kept and shown


def as_text(text: str) -> str:
    """`text` for a place that takes HTML, so that it is seen letter by letter and nothing in it is live."""
    return html.escape(text)


def check_text(what: str, text: str, max_chars: int) -> None:
    """Raises UserError for a text of more than `max_chars` characters, or with half of a surrogate pair."""
    if len(text) > max_chars:
        raise UserError(f"{what} has {len(text):,} characters; at most {max_chars:,} are read: shorten it.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{what} is no valid Unicode text: write it anew.") from None


@dataclass(frozen=True)
class Question:
    """What a visitor asks for: the conversation so far, ending with the new message, and how to answer it."""

    messages: list[dict]
    sampling: Sampling
    system: str = ""
    calculator: bool = False
    best_of: int = 1


@dataclass(frozen=True)
class Progress:
    """An answer so far, and its figures: tokens, speed, wait, calculator, and at last whether it was cut."""

    text: str
    figures: str


def progress(engine: Engine, question: Question) -> Iterator[Progress]:
    """The answer as it grows. A base model continues the last message and is shown nothing else.

    Closing the iterator stops the model. Raises UserError for what does not fit the model's context.
    """
    pieces = _pieces(engine, question)
    text, num_tokens, ending, calls = "", 0, None, ""
    seconds = first = shown = 0.0  # of this model alone: another may answer in between
    while True:
        began = time.perf_counter()
        piece = next(pieces, None)
        seconds += time.perf_counter() - began
        if piece is None:
            break
        first = first or seconds
        text += piece.text
        num_tokens += piece.num_tokens
        ending = piece.finish_reason
        if isinstance(piece, CalculatorPiece):
            calls += f" · calculator: {piece.expression} = {piece.result}"
        if shown == 0.0 or seconds - shown >= SECONDS_BETWEEN_UPDATES:
            shown = seconds
            yield Progress(text, _figures(num_tokens, seconds, first) + calls)
    figures = _figures(num_tokens, seconds, first) + calls
    if ending == "length":
        figures += " · cut there"
    yield Progress(text, figures)


def _pieces(engine: Engine, question: Question) -> Iterator:
    if not engine.is_chat:
        return complete(engine, question.messages[-1]["content"], question.sampling, best_of=question.best_of)
    system = [{"role": "system", "content": question.system}] if question.system.strip() else []
    return answer(
        engine,
        system + question.messages,
        question.sampling,
        calculator=question.calculator,
        best_of=question.best_of,
    )


def _figures(num_tokens: int, seconds: float, first: float) -> str:
    speed = f" · {num_tokens / seconds:,.0f} tokens/s" if seconds > 0 and num_tokens > 1 else ""
    return f"{num_tokens:,} token{'' if num_tokens == 1 else 's'}{speed} · first after {first:.2f} s"


def in_turn(sides: list[Iterator[Progress]]) -> Iterator[tuple[int, Progress]]:
    """One update of each side in turn until all have ended, as (side, progress): several answers grow together."""
    going = dict(enumerate(sides))
    while going:
        for index, side in list(going.items()):
            update = next(side, None)
            if update is None:
                del going[index]
            else:
                yield index, update
