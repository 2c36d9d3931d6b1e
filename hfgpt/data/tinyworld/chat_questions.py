"""Single questions of the tiny world with their two right answers, and who may be asked what where.

Three uses never share a wording about the same fact: conversations, preference pairs, and the held-out questions of
the evaluation. A fifth of the people are in no conversation and no pair at all: only documents tell about them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from hfgpt.data.tinyworld import sums
from hfgpt.data.tinyworld.chat_phrasings import (
    BRIEF_ANSWERS,
    FULL_ANSWERS,
    PLACE_QUESTIONS,
    QUESTIONS,
    SUM_ANSWERS,
    SUM_QUESTIONS,
)
from hfgpt.data.tinyworld.documents import capitalize, statement
from hfgpt.data.tinyworld.draw import Draw
from hfgpt.data.tinyworld.phrasings import Attribute

if TYPE_CHECKING:
    from hfgpt.data.tinyworld.world import Person, Place

HELD_OUT_WORDINGS, PREFERENCE_WORDINGS, HELD_OUT_SUM_WORDINGS = 3, 2, 3
TOLD_SUMS = (1, 2, 0)  # ADDITIONS in digits, by preference; two of all are held out for a sum

# Operands of sums in conversations and prompts. To a model this small each sum is a fact of its own, and of sums up
# to 20 each is met too seldom for a reward to teach it in minutes: 250 steps of GRPO took pass@1 from 18% to 27%.
LARGEST_IN_CHAT = 10


@dataclass(frozen=True)
class Question:
    """A question and its right answer in two styles: `brief` ("Millford.") and `full`, a whole sentence."""

    text: str
    brief: str
    full: str


class Wordings(NamedTuple):
    """Indices into the wordings of a question, by the one use that each is put to."""

    conversations: tuple[int, ...]
    preferences: tuple[int, ...]
    held_out: tuple[int, ...]


@cache
def fact_wordings(seed: int, name: str, attribute: str) -> Wordings:
    """How the person called `name` is asked about `attribute`."""
    order = Draw(seed, "wordings", name, attribute).shuffled(range(len(QUESTIONS[attribute])))
    first, second = HELD_OUT_WORDINGS, HELD_OUT_WORDINGS + PREFERENCE_WORDINGS
    return Wordings(tuple(order[second:]), tuple(order[first:second]), tuple(order[:first]))


@cache
def sum_wordings(seed: int, a: int, b: int) -> Wordings:
    """How a + b is asked for; no preference pair is about sums."""
    order = Draw(seed, "sum wordings", a, b).shuffled(range(len(SUM_QUESTIONS)))
    return Wordings(tuple(order[HELD_OUT_SUM_WORDINGS:]), (), tuple(order[:HELD_OUT_SUM_WORDINGS]))


def fact_question(person: Person, attribute: Attribute, wording: int, name: str = "full") -> Question:
    """Asks for the person's value, calling them by `full` name, `first` name or `pronoun`."""
    value = person.facts[attribute.name]
    return Question(
        text=statement(QUESTIONS[attribute.name][wording], person, value, name),
        brief=brief_answer(person, attribute, value),
        full=full_answer(person, attribute, value),
    )


def brief_answer(person: Person, attribute: Attribute, value: str) -> str:
    return statement(BRIEF_ANSWERS[attribute.name], person, value, "full")


def full_answer(person: Person, attribute: Attribute, value: str) -> str:
    return statement(FULL_ANSWERS[attribute.name], person, value, "full")


def place_question(place: Place, wording: int) -> Question:
    words = {"place": place.name, "river": place.river, "sight": place.sight, "market_day": place.market_day}
    return Question(*(capitalize(text.format(**words)) for text in PLACE_QUESTIONS[wording]))


def sum_question(a: int, b: int, wording: int) -> Question:
    """Asks for a + b, in digits or in words, and is answered likewise."""
    brief, full = SUM_ANSWERS[is_in_words(wording)]
    return Question(*(sums.sum_line(text, a, b) for text in (SUM_QUESTIONS[wording], brief, full)))


def is_in_words(wording: int) -> bool:
    return "{wa}" in SUM_QUESTIONS[wording]


def told_sum(seed: int, a: int, b: int) -> str:
    """a + b in digits, in the first of the documents' wordings that is not held out for it."""
    held_out = sums.held_out_phrasings(seed, a, b)
    return sums.sum_line(next(sums.ADDITIONS[i] for i in TOLD_SUMS if i not in held_out), a, b)


def any_sum(draw: Draw) -> tuple[int, int]:
    """The operands of a sum in a conversation."""
    return draw.below(LARGEST_IN_CHAT + 1), draw.below(LARGEST_IN_CHAT + 1)
