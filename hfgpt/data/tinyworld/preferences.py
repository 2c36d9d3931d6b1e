"""Preference pairs of the tiny world: a whole sentence is preferred to a brief answer, and the truth to anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfgpt.data.tinyworld import chat_questions
from hfgpt.data.tinyworld.chat_phrasings import SMALL_TALK
from hfgpt.data.tinyworld.conversations import assistant, user
from hfgpt.data.tinyworld.draw import Draw
from hfgpt.data.tinyworld.phrasings import ATTRIBUTES, Attribute

if TYPE_CHECKING:
    from hfgpt.data.tinyworld.world import Person, TinyWorld

SMALL_TALK_SHARE = 0.2  # without it, who it is is unlearned: every first word that is preferred would be "The"
WRONG_SHARE = 0.25  # of the pairs about a fact: those whose rejected answer is a whole sentence too, but false


def write_preference(world: TinyWorld, index: int) -> dict:
    """Pair `index` of the world, a pure function of both; a fact is asked for in a wording that no conversation uses
    for it."""
    draw = Draw(world.seed, "preference", index)
    if draw.chance(SMALL_TALK_SHARE):
        said, brief, full = draw.one(SMALL_TALK)
        return _pair_of(said, full, brief)
    person, attribute = draw.one(world.conversation_people), draw.one(ATTRIBUTES)
    wordings = chat_questions.fact_wordings(world.seed, person.name, attribute.name)
    return _pair_about(person, attribute, draw.one(wordings.preferences), draw)


def held_out_preferences(world: TinyWorld) -> list[dict]:
    """One pair per person of the conversations and attribute, in a wording held out from every stage."""
    result = []
    for person in world.conversation_people:
        for attribute in ATTRIBUTES:
            draw = Draw(world.seed, "held-out preference", person.name, attribute.name)
            wordings = chat_questions.fact_wordings(world.seed, person.name, attribute.name)
            result.append(_pair_about(person, attribute, draw.one(wordings.held_out), draw))
    return result


def _pair_about(person: Person, attribute: Attribute, wording: int, draw: Draw) -> dict:
    question = chat_questions.fact_question(person, attribute, wording)
    rejected = question.brief
    if draw.chance(WRONG_SHARE):
        wrong = draw.one([value for value in attribute.values if value != person.facts[attribute.name]])
        rejected = chat_questions.full_answer(person, attribute, wrong)
    return _pair_of(question.text, question.full, rejected)


def _pair_of(prompt: str, chosen: str, rejected: str) -> dict:
    return {
        "prompt": [user(prompt)],
        "chosen": [assistant(chosen)],
        "rejected": [assistant(rejected)],
        "tools": None,
    }
