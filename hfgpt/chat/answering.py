"""A conversation's next answer, as terminal, web page and server give it: old turns dropped where the context is full,
the answer streamed, the calculator asked where the model calls it. And the continuation of a text by a base model."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from hfgpt.chat.calculator import CalculatorError, calculate
from hfgpt.chat.engine import Engine, FinishReason, Piece, TextStream
from hfgpt.chat.sampling import Sampling
from hfgpt.chat.thinking import best_of as best_completion
from hfgpt.errors import UserError

Message = dict[str, Any]


@dataclass
class CalculatorPiece(Piece):
    """Where the answer asked the calculator: its text is empty."""

    expression: str = ""
    result: str = ""


def answer(
    engine: Engine, messages: list[Message], sampling: Sampling, *, calculator: bool = False, best_of: int = 1
) -> Iterator[Piece]:
    """The assistant's answer to `messages`, piece by piece; the last piece has the finish reason.

    With `best_of` above 1 the best of so many answers comes, once all are there. With `calculator` each call of it is
    answered, which a CalculatorPiece tells, and the model goes on; `max_new_tokens` counts over all its turns.

    Raises UserError where the last message alone does not fit the context, or the model has no chat template, or,
    with `calculator`, no token for calls.
    """
    prompt_ids = fitting_prompt(engine, messages, sampling)
    if calculator:
        return _with_calculator(engine, CalculatorTokens(engine), prompt_ids, sampling, best_of)
    return _pieces(engine, prompt_ids, sampling, best_of)


def complete(engine: Engine, text: str, sampling: Sampling, *, best_of: int = 1) -> Iterator[Piece]:
    """The continuation of a text, piece by piece. Raises UserError for a text that fills the context."""
    return _pieces(engine, engine.text_ids(text), sampling, best_of)


def fitting_prompt(engine: Engine, messages: list[Message], sampling: Sampling) -> list[int]:
    """The conversation's tokens without its oldest turns, as many as must go so that the answer has room:
    `max_new_tokens`, though never more than half of the context. A system message at the start stays.

    Raises UserError where the last turn alone does not leave room for one token.
    """
    if not messages:
        raise UserError("There is no message to answer.")
    system = messages[:1] if messages[0].get("role") == "system" else []
    rest = messages[len(system) :]
    # A turn is a user's message with all that follows it: an answer, or a tool's result, is nothing without it.
    starts = [0, *(place for place, message in enumerate(rest) if place and message.get("role") == "user")]
    longest = engine.max_length - min(sampling.max_new_tokens, engine.max_length // 2)
    # By halving: many short turns must not be rendered as many times.
    fitting = bisect_left(starts, True, key=lambda start: len(engine.chat_ids(system + rest[start:])) <= longest)
    prompt_ids = engine.chat_ids(system + rest[starts[min(fitting, len(starts) - 1)] :])
    if len(prompt_ids) >= engine.max_length:
        raise UserError(
            f"The last message is too long: with it the prompt has {len(prompt_ids):,} tokens and {engine.name} reads "
            f"{engine.max_length:,} with its answer; shorten it."
        )
    return prompt_ids


def _pieces(engine: Engine, prompt_ids: list[int], sampling: Sampling, best_of: int) -> Iterator[Piece]:
    engine.room(prompt_ids)  # refuses what does not fit now, not when the first piece is asked for
    return engine.stream(prompt_ids, sampling) if best_of == 1 else _best(engine, prompt_ids, sampling, best_of)


def _best(engine: Engine, prompt_ids: list[int], sampling: Sampling, best_of: int) -> Iterator[Piece]:
    best = best_completion(engine, prompt_ids, best_of, sampling)
    yield Piece(best.text, len(best.token_ids), best.finish_reason)


class CalculatorTokens:
    """The tokens of our chat format by which a model calls the calculator."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.call, self.output, self.assistant, self.end = (
            self._id(name) for name in ("<|python|>", "<|output|>", "<|assistant|>", "<|end|>")
        )

    def _id(self, name: str) -> int:
        token_id = self.engine.tokenizer.backend_tokenizer.token_to_id(name)
        if token_id is None:
            raise UserError(f"{self.engine.name} cannot call a calculator: its tokenizer has no {name}.")
        return token_id

    def expression(self, said: list[int]) -> str:
        """What the model asks for: the text after the call's token."""
        text = TextStream(self.engine.tokenizer)
        return "".join(map(text.append, said[said.index(self.call) :]))

    def result_turn(self, result: str) -> list[int]:
        """What comes between a call and the rest of the answer."""
        text = self.engine.tokenizer(result, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [self.output, *text, self.end, self.assistant]


def _with_calculator(
    engine: Engine, tokens: CalculatorTokens, prompt_ids: list[int], sampling: Sampling, best_of: int
) -> Iterator[Piece]:
    room = sampling.max_new_tokens
    while True:
        text, waiting = TextStream(engine.tokenizer), 0
        said: list[int] = []
        in_call = called = False
        for token, finish_reason in _tokens(engine, prompt_ids, replace(sampling, max_new_tokens=room), best_of):
            said.append(token)
            waiting += 1
            in_call = in_call or token == tokens.call
            called = in_call and finish_reason == "stop"
            new = "" if in_call else text.append(token)
            if new or (finish_reason and not called):
                yield Piece(new, waiting, finish_reason)
                waiting = 0
        if not called:
            return
        expression = tokens.expression(said)
        result = _result(expression)
        room -= len(said)
        prompt_ids = prompt_ids + said + tokens.result_turn(result)
        is_full = room == 0 or len(prompt_ids) >= engine.max_length
        yield CalculatorPiece("", waiting, "length" if is_full else None, expression=expression, result=result)
        if is_full:
            return


def _tokens(
    engine: Engine, prompt_ids: list[int], sampling: Sampling, best_of: int
) -> Iterator[tuple[int, FinishReason | None]]:
    """One turn's tokens, each with the finish reason that it brings."""
    if best_of == 1:
        for step in engine.steps([prompt_ids], sampling):
            yield step.tokens[0], step.finish_reasons[0]
    else:
        best = best_completion(engine, prompt_ids, best_of, sampling)
        for token in best.token_ids[:-1]:
            yield token, None
        yield best.token_ids[-1], best.finish_reason


def _result(expression: str) -> str:
    try:
        return calculate(expression)
    except CalculatorError:
        return "error"
