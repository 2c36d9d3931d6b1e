"""The thread that generates for all clients of the server, with a real engine; and what clients see of its tokens."""

import asyncio
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")
pytest.importorskip("fastapi")

from transformers.cli.serving.utils import _StreamError

from hfgpt.chat.decoding import Decoder, Decoding
from hfgpt.chat.engine import Engine, Piece
from hfgpt.chat.sampling import Sampling
from hfgpt.chat.serve_answers import MAX_WAITING, MAX_WAITING_OF_ONE, Answer, Rotation
from hfgpt.chat.serve_handlers import Completions, EngineGeneration, EngineState
from hfgpt.chat.serve_requests import RequestError
from hfgpt.chat.serve_text import TextUntil

LONG = Sampling(temperature=0, max_new_tokens=200)


@pytest.fixture(scope="module")
def engine(base_model: Path) -> Engine:
    """An untrained model that never stops by itself."""
    made = Engine.from_pretrained(base_model, device="cpu")
    made.stop_ids = frozenset()
    return made


@pytest.fixture
def rotation() -> Iterator[Rotation]:
    made = Rotation(max_active=2)
    yield made
    made.stop(seconds=30)


def answer_of(engine: Engine, sampling: Sampling, client: str = "") -> Answer:
    return Answer(engine.stream(engine.text_ids("one"), sampling), stops=(), client=client)


async def items_of(answer: Answer) -> list[Any]:
    """All that comes out of the queue, its end included."""
    items = [await answer.queue.get()]
    while isinstance(items[-1], str):
        items.append(await answer.queue.get())
    return items


def test_a_short_answer_does_not_wait_for_a_long_one(engine, rotation):
    async def run() -> tuple[int, int]:
        long, short = answer_of(engine, LONG), answer_of(engine, Sampling(temperature=0, max_new_tokens=5))
        rotation.add(long)
        rotation.add(short)
        await items_of(short)
        tokens = long.total_tokens
        await items_of(long)
        return tokens, long.total_tokens

    when_short_was_done, at_the_end = asyncio.run(run())
    assert when_short_was_done < 100
    assert at_the_end == 200


def test_answers_of_a_rotation_are_those_of_the_engine(engine, rotation):
    async def run() -> list[str]:
        answers = [answer_of(engine, Sampling(seed=seed, max_new_tokens=30)) for seed in range(6)]
        for answer in answers:
            rotation.add(answer)
        return ["".join(filter(None, await items_of(answer))) for answer in answers]

    alone = [
        engine.generate([engine.text_ids("one")], Sampling(seed=seed, max_new_tokens=30))[0].text for seed in range(6)
    ]
    assert asyncio.run(run()) == alone
    assert len(set(alone)) == 6


def test_nothing_more_is_generated_for_a_client_that_has_gone(engine):
    async def run() -> tuple[Answer, bool, list[Any]]:
        answer = answer_of(engine, LONG)
        for _ in range(3):
            assert answer.advance()
        answer.cancel()
        goes_on = answer.advance()
        return answer, goes_on, await items_of(answer)

    answer, goes_on, items = asyncio.run(run())
    assert not goes_on
    assert answer.total_tokens < 200
    assert answer.finish_reason is None
    assert items[-1] is None


class Watched:
    """A decoder, and what it has begun: dead where nobody has the keys and values any more."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.begun: list[weakref.ref[Decoding]] = []

    def begin(self, prompts: list[list[int]], max_new_tokens: int) -> Decoding:
        decoding = self.decoder.begin(prompts, max_new_tokens)
        self.begun.append(weakref.ref(decoding))
        return decoding


@pytest.mark.parametrize("ending", ["length", "stop string", "cancel"])
def test_an_answer_that_has_ended_keeps_no_cache_while_its_client_has_read_nothing(engine, ending):
    watched = Engine(engine.model, engine.tokenizer)
    watched.stop_ids, watched.decoder = frozenset(), Watched(watched.decoder)

    async def run() -> None:
        text = "".join(piece.text for piece in engine.stream(engine.text_ids("one"), LONG))
        pieces = watched.stream(watched.text_ids("one"), LONG)
        answer = Answer(pieces, stops=(text[20:25],) if ending == "stop string" else ())
        del pieces
        assert answer.advance()
        (cache,) = watched.decoder.begun
        assert cache() is not None
        if ending == "cancel":
            answer.cancel()
        while answer.advance():
            pass
        assert cache() is None
        assert (answer.total_tokens == 200) == (ending == "length")
        items = await items_of(answer)  # all that was generated is there, if the client comes to read it
        assert items[0] and text.startswith("".join(filter(None, items)))

    asyncio.run(run())


def test_an_answer_whose_client_goes_before_its_first_event_is_not_generated(engine, rotation):
    completions = Completions(engine, "base", EngineState(EngineGeneration(engine, rotation)), LONG)

    async def gone() -> dict:
        return {"type": "http.disconnect"}

    async def to_nobody(message: Any) -> None:
        await asyncio.sleep(0)

    async def run() -> int:
        response = await completions.handle_request({"prompt": "one", "stream": True}, "cmpl-1")
        await response({"type": "http", "asgi": {"spec_version": "2.3"}}, gone, to_nobody)
        while rotation.load()["generating"]:
            await asyncio.sleep(0.01)
        return response.answer.total_tokens

    assert asyncio.run(run()) < 200


def test_a_full_line_is_refused_and_stopping_ends_those_who_wait(engine, rotation):
    async def run() -> list[Any]:
        added = []
        for client, status, word in (
            ("a", 429, "requests waiting"),
            ("b", 429, "requests waiting"),
            ("c", 503, "overloaded"),
        ):
            answers = [answer_of(engine, LONG, client) for _ in range(MAX_WAITING_OF_ONE + 20)]
            with pytest.raises(RequestError, match=word) as error:
                for answer in answers:
                    rotation.add(answer)
                    added.append(answer)
            assert error.value.status == status
        assert len(added) >= MAX_WAITING
        rotation.stop(seconds=30)
        return [(await items_of(answer))[-1] for answer in added]

    ends = asyncio.run(run())
    assert sum(isinstance(end, _StreamError) for end in ends) > MAX_WAITING - 10
    with pytest.raises(RequestError, match="stopping"):
        asyncio.run(_add_one(engine, rotation))


def test_answers_whose_clients_have_gone_keep_no_place_in_a_full_line(engine, rotation):
    async def run() -> dict[str, int]:
        waiting = [answer_of(engine, LONG) for _ in range(MAX_WAITING_OF_ONE)]
        for answer in waiting:
            rotation.add(answer)
        for answer in waiting[100:]:
            answer.cancel()
        for _ in range(MAX_WAITING_OF_ONE - 100):
            rotation.add(answer_of(engine, LONG))
        return rotation.load()

    load = asyncio.run(run())
    assert load["waiting"] <= MAX_WAITING_OF_ONE
    assert load["generating"] == 2


async def ended_clients(rotation: Rotation, engine: Engine, first: Sampling, others: str) -> str:
    """Clients in the order in which they get their answers, the first letter's being held until `others` wait."""
    release, ended = threading.Event(), []

    def held() -> Iterator[Piece]:
        release.wait()
        yield from engine.stream(engine.text_ids("one"), first)

    async def wait_for(answer: Answer) -> None:
        await items_of(answer)
        ended.append(answer.client)

    answers = [Answer(held(), (), "a")]
    rotation.add(answers[0])
    while rotation.load()["generating"] == 0:
        await asyncio.sleep(0.01)
    for client in others:
        answers.append(answer_of(engine, Sampling(temperature=0, max_new_tokens=5), client))
        rotation.add(answers[-1])
    release.set()
    await asyncio.gather(*map(wait_for, answers))
    rotation.stop(seconds=30)
    return "".join(ended)


def test_a_client_with_many_requests_lets_others_take_their_turns(engine):
    assert asyncio.run(ended_clients(Rotation(max_active=1), engine, LONG, "aaaaabc")) == "aabcaaaa"


def test_a_free_place_goes_to_the_client_that_has_the_fewest(engine):
    assert asyncio.run(ended_clients(Rotation(max_active=2), engine, LONG, "ab")) == "baa"


async def _add_one(engine: Engine, rotation: Rotation) -> None:
    rotation.add(answer_of(engine, LONG))


def test_an_answer_that_fails_ends_alone(engine, base_model, rotation):
    broken = Engine.from_pretrained(base_model, device="cpu")
    broken.model.get_output_embeddings().weight.data.fill_(float("nan"))

    async def run() -> tuple[list[Any], list[Any]]:
        failing, fine = answer_of(broken, LONG), answer_of(engine, LONG)
        rotation.add(failing)
        rotation.add(fine)
        return await items_of(failing), await items_of(fine)

    failed, fine = asyncio.run(run())
    assert [type(item) for item in failed] == [_StreamError]
    assert fine[-1] is None


@pytest.mark.parametrize(
    ("stops", "bits", "shown", "found"),
    [
        ((), ["a", "b"], ["a", "b"], False),
        (("cd",), ["a", "bc", "d", "e"], ["a", "b", ""], True),
        (("cd",), ["abc", "e"], ["ab", "ce"], False),
        (("cd",), ["abc"], ["ab", "c"], False),
        (("xyz", "b"), ["abxyz"], ["a"], True),
        (("aab",), ["aaab"], ["a"], True),
        (("aab",), ["a", "a", "a", "b"], ["", "", "a", ""], True),
        (("\n\n",), ["a\n", "b\n", "\nc"], ["a", "\nb", ""], True),
    ],
)
def test_text_ends_before_the_first_stop_string_and_loses_nothing_else(stops, bits, shown, found):
    text = TextUntil(stops)
    out = []
    for bit in bits:
        out.append(text.append(bit))
        if text.found:
            break
    rest = text.rest()
    assert out + ([rest] if rest else []) == shown
    assert text.found == found
