"""Answers as every user interface gets them: the calculator's turns, full contexts, base models."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from reciting_model import save_reciting_model

from hfgpt.chat.answering import CalculatorPiece, CalculatorTokens, answer, complete, fitting_prompt
from hfgpt.chat.engine import Engine, Piece
from hfgpt.chat.sampling import Sampling
from hfgpt.errors import UserError

GREEDY = Sampling(temperature=0)
QUESTION = "What is 12 + 30?"


@pytest.fixture(scope="module")
def chat(chat_model) -> Engine:
    return Engine.from_pretrained(chat_model)


@pytest.fixture(scope="module")
def base(base_model) -> Engine:
    return Engine.from_pretrained(base_model)


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def text_of(pieces: Iterator[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_an_answer_is_streamed_and_ends_with_its_reason(chat) -> None:
    pieces = list(answer(chat, [user("What is your name?")], GREEDY))
    assert text_of(iter(pieces)) == "My name is Tiny."
    assert len(pieces) > 2
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["stop"]


def test_the_system_message_and_earlier_turns_are_heard(chat) -> None:
    system = {"role": "system", "content": "Be brief."}
    assert text_of(answer(chat, [system, user("What is your name?")], GREEDY)) == "Tiny."
    turns = [user("What is your name?"), assistant("My name is Tiny."), user("Count to ten.")]
    assert text_of(answer(chat, turns, GREEDY)) == "one two three four five six seven eight nine ten"


def test_a_call_is_calculated_and_the_model_goes_on(chat) -> None:
    pieces = list(answer(chat, [user(QUESTION)], GREEDY, calculator=True))
    assert text_of(iter(pieces)) == "It is 42."
    (call,) = [piece for piece in pieces if isinstance(piece, CalculatorPiece)]
    assert (call.expression, call.result, call.text, call.finish_reason) == ("12 + 30", "42", "", None)
    assert pieces[-1].finish_reason == "stop"
    assert all(piece.finish_reason is None for piece in pieces[:-1])


def test_what_the_model_reads_after_a_call_is_the_conversation_by_its_template(chat) -> None:
    prompt = chat.chat_ids([user(QUESTION)])
    said = chat.generate([prompt], GREEDY)[0].token_ids
    call = {"type": "function", "function": {"name": "python", "arguments": {"expression": "12 + 30"}}}
    turns = [
        user(QUESTION),
        {"role": "assistant", "content": "It is ", "tool_calls": [call]},
        {"role": "tool", "name": "python", "content": "42"},
    ]
    assert prompt + said + CalculatorTokens(chat).result_turn("42") == chat.chat_ids(turns)


def test_without_the_calculator_the_call_ends_the_answer(chat) -> None:
    pieces = list(answer(chat, [user(QUESTION)], GREEDY))
    assert text_of(iter(pieces)) == "It is 12 + 30"
    assert pieces[-1].finish_reason == "stop"
    assert not any(isinstance(piece, CalculatorPiece) for piece in pieces)


def test_the_room_for_an_answer_counts_over_the_turns_of_its_calls(chat) -> None:
    whole = list(answer(chat, [user(QUESTION)], GREEDY, calculator=True))
    total = sum(piece.num_tokens for piece in whole)
    before = sum(piece.num_tokens for piece in whole[: _place_of_call(whole) + 1])
    for room, reason, calls in (
        (total, "stop", 1),
        (total - 1, "length", 1),
        (before, "length", 1),
        (before - 1, "length", 0),
    ):
        pieces = list(answer(chat, [user(QUESTION)], replace(GREEDY, max_new_tokens=room), calculator=True))
        assert sum(piece.num_tokens for piece in pieces) == room
        assert pieces[-1].finish_reason == reason
        assert sum(isinstance(piece, CalculatorPiece) for piece in pieces) == calls


def _place_of_call(pieces: list[Piece]) -> int:
    return next(place for place, piece in enumerate(pieces) if isinstance(piece, CalculatorPiece))


def test_the_best_of_several_answers_calls_the_calculator_too(chat) -> None:
    sampling = Sampling(temperature=0.7, seed=1)
    assert text_of(answer(chat, [user(QUESTION)], sampling, calculator=True, best_of=4)) == "It is 42."
    pieces = list(answer(chat, [user("What is your name?")], sampling, best_of=4))
    assert [(piece.text, piece.finish_reason) for piece in pieces] == [("My name is Tiny.", "stop")]


def test_a_tokenizer_without_the_token_has_no_calculator(chat) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")),
        chat_template="{{ messages[0].content }}",
    )
    with pytest.raises(UserError, match="python"):
        answer(Engine(chat.model, bare), [user("a")], GREEDY, calculator=True)


def test_the_oldest_turns_go_first_and_the_system_message_stays(chat) -> None:
    system = {"role": "system", "content": "Be brief."}
    turns = [message for _ in range(30) for message in (user("Count to ten."), assistant("one two three four five"))]
    last = user("What is your name?")
    sampling = Sampling(temperature=0, max_new_tokens=60)
    conversations = [[system, *turns[start:], last] for start in range(0, len(turns) + 1, 2)]
    kept = next(kept for kept in conversations if len(chat.chat_ids(kept)) + 60 <= 256)
    assert 2 < len(kept) < len(turns)
    assert fitting_prompt(chat, [system, *turns, last], sampling) == chat.chat_ids(kept)
    assert fitting_prompt(chat, [system, last], sampling) == chat.chat_ids([system, last])


def test_a_dropped_question_takes_its_tool_turns_along(chat) -> None:
    call = {"type": "function", "function": {"name": "python", "arguments": {"expression": "1 + 1"}}}
    turns = [
        user("one two three " * 30),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "python", "content": "2"},
        assistant("2."),
        user("Count to ten."),
    ]
    sampling = Sampling(temperature=0, max_new_tokens=128)
    assert len(chat.chat_ids(turns)) + 128 > 256
    assert fitting_prompt(chat, turns, sampling) == chat.chat_ids(turns[-1:])


def test_a_long_answer_never_asks_for_more_than_half_of_the_context(chat) -> None:
    turns = [user("Count to ten."), assistant("one two three"), user("What is your name?")]
    assert fitting_prompt(chat, turns, Sampling(max_new_tokens=5000)) == chat.chat_ids(turns)


def test_the_last_message_is_answered_as_long_as_one_token_fits(chat) -> None:
    words = 1
    while len(chat.chat_ids([user("one " * (words + 1))])) < 256:
        words += 1
    pieces = list(answer(chat, [user("one " * words)], GREEDY))
    assert pieces[-1].finish_reason is not None
    with pytest.raises(UserError, match="too long"):
        answer(chat, [user("one " * (words + 1))], GREEDY)


def test_no_messages_are_refused(chat) -> None:
    with pytest.raises(UserError, match="no message"):
        answer(chat, [], GREEDY)


def test_a_base_model_completes_text(base) -> None:
    sampling = Sampling(temperature=1, top_k=None, seed=2, max_new_tokens=12)
    (expected,) = base.generate([base.text_ids("one two")], sampling)
    assert text_of(complete(base, "one two", sampling)) == expected.text
    best = list(complete(base, "one two", sampling, best_of=3))
    assert len(best) == 1 and best[0].num_tokens <= 12 and best[0].finish_reason
    for best_of in (1, 3):
        with pytest.raises(UserError, match="shorten it"):
            complete(base, "one " * 400, sampling, best_of=best_of)


def test_a_call_that_has_no_value_is_answered_with_error(chat_tokenizer, tmp_path) -> None:
    recited = "<|python|>7/0<|end|><|output|>error<|end|><|assistant|>It cannot be."
    engine = Engine.from_pretrained(save_reciting_model(tmp_path, chat_tokenizer, recited, question="7/0?"))
    pieces = list(answer(engine, [user("7/0?")], GREEDY, calculator=True))
    (call,) = [piece for piece in pieces if isinstance(piece, CalculatorPiece)]
    assert (call.expression, call.result) == ("7/0", "error")
    # The model knows its words by position: they fit because the turn in between is as long as it should be.
    assert text_of(iter(pieces)) == "It cannot be."


def test_a_model_that_only_calls_comes_to_an_end(chat_tokenizer, tmp_path) -> None:
    recited = "<|python|>1+1<|end|><|output|>2<|end|><|assistant|>"
    engine = Engine.from_pretrained(save_reciting_model(tmp_path, chat_tokenizer, recited))
    period = len(chat_tokenizer(recited, add_special_tokens=False)["input_ids"])
    questions = ["one " * count for count in range(1, 60)]  # with one of them the recital begins at its beginning
    question = next(text for text in questions if len(engine.chat_ids([user(text)])) % period == 1)
    pieces = list(answer(engine, [user(question)], replace(GREEDY, max_new_tokens=50), calculator=True))
    assert pieces[-1].finish_reason == "length"
    assert sum(piece.num_tokens for piece in pieces) == 50
    assert sum(isinstance(piece, CalculatorPiece) for piece in pieces) == 10
    assert text_of(iter(pieces)) == ""
