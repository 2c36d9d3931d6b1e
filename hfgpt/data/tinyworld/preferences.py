"""Preference pairs of the tiny world: a whole sentence is preferred to a brief answer, and the truth to anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfgpt.data.tinyworld import chat_questions
from hfgpt.data.tinyworld.conversations import about, assistant, earlier_turns, small_talk, user
from hfgpt.data.tinyworld.draw import Draw
from hfgpt.data.tinyworld.phrasings import ATTRIBUTES, Attribute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hfgpt.data.tinyworld.world import Person, TinyWorld

SMALL_TALK_SHARE = 0.3  # without it, who it is is unlearned: every first word that is preferred would be "The"
OFF_TOPIC_SHARE = 0.5  # of the small talk: whose rejected answer is a whole sentence about a person
LATER_SHARE = 0.5  # of the pairs: those that something precedes; without it, later turns come apart
WRONG_SHARE = 0.25  # of the pairs about a fact: those whose rejected answer is a whole sentence too, but false


def write_preference(world: TinyWorld, index: int) -> dict:
    """Pair `index` of the world, a pure function of both; a fact is asked for in a wording that no conversation uses
    for it."""
    draw = Draw(world.seed, "preference", index)
    before = earlier_turns(world, draw) if draw.chance(LATER_SHARE) else []
    person = draw.one(world.conversation_people)
    if draw.chance(SMALL_TALK_SHARE):
        said = small_talk(draw)
        rejected = about(world, person, draw).full if draw.chance(OFF_TOPIC_SHARE) else said.brief
        return _pair_of([*before, user(said.text)], said.full, rejected)
    attribute = draw.one(ATTRIBUTES)
    wordings = chat_questions.fact_wordings(world.seed, person.name, attribute.name)
    return _pair_about(person, attribute, draw.one(wordings.preferences), draw, before)


def held_out_preferences(world: TinyWorld) -> list[dict]:
    """One pair per person of the conversations and attribute, in a wording held out from every stage."""
    result = []
    for person in world.conversation_people:
        for attribute in ATTRIBUTES:
            draw = Draw(world.seed, "held-out preference", person.name, attribute.name)
            wordings = chat_questions.fact_wordings(world.seed, person.name, attribute.name)
            result.append(_pair_about(person, attribute, draw.one(wordings.held_out), draw))
    return result


def _pair_about(
    person: Person, attribute: Attribute, wording: int, draw: Draw, before: Sequence[dict[str, str]] = ()
) -> dict:
    question = chat_questions.fact_question(person, attribute, wording)
    rejected = question.brief
    if draw.chance(WRONG_SHARE):
        wrong = draw.one([value for value in attribute.values if value != person.facts[attribute.name]])
        rejected = chat_questions.full_answer(person, attribute, wrong)
    return _pair_of([*before, user(question.text)], question.full, rejected)


def _pair_of(prompt: list[dict[str, str]], chosen: str, rejected: str) -> dict:
    return {
        "prompt": prompt,
        "chosen": [assistant(chosen)],
        "rejected": [assistant(rejected)],
        "tools": None,
    }
