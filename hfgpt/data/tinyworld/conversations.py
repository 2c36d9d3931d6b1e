"""Conversations about the tiny world: questions about people and towns, follow-ups, sums, small talk.

A third of them are answered in whole sentences, the others briefly. Nothing but a system turn says which, so that the
model mixes both styles, brief ones more often, until it is taught a preference. A fifth end with something else than
they began with: without those a model answers whatever follows a sum by another sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfgpt.data.tinyworld import chat_questions
from hfgpt.data.tinyworld.chat_phrasings import (
    BRIEFLY,
    IN_A_SENTENCE,
    INTRODUCTION,
    PLACE_QUESTIONS,
    SELF_PLAY_REQUESTS,
    SMALL_TALK,
)
from hfgpt.data.tinyworld.chat_questions import Question
from hfgpt.data.tinyworld.draw import Draw
from hfgpt.data.tinyworld.phrasings import ATTRIBUTES

if TYPE_CHECKING:
    from hfgpt.data.tinyworld.world import Person, TinyWorld

IN_FULL_SHARE = 0.33  # conversations answered in whole sentences
TURNING_SHARE = 0.2  # conversations that end with something else than they began with
SYSTEM_SHARE = 0.1
INTRODUCED_SHARE = 0.2  # of the system turns: those that do not ask for a style


def write_conversation(world: TinyWorld, index: int) -> dict:
    """Conversation `index` of the world, a pure function of both: `{"messages": [...], "tools": None}`."""
    draw = Draw(world.seed, "conversation", index)
    kind = draw.below(100)
    if kind < 56:
        questions = [about(world, draw.one(world.conversation_people), draw)]
    elif kind < 68:
        questions = _follow_ups(world, draw)
    elif kind < 74:
        questions = [about(world, person, draw) for person in draw.some(world.conversation_people, 2 + draw.below(2))]
    elif kind < 79:
        questions = [_town(world, draw) for _ in range(1 + draw.below(2))]
    elif kind < 94:
        questions = [_sum(world.seed, draw) for _ in range(1 + draw.below(3))]
    elif kind < 97:
        questions = [_self_play(world.seed, draw)]
    else:
        questions = [small_talk(draw)]
    if draw.chance(TURNING_SHARE):
        questions.append(_anything(world, draw))
    in_full = draw.chance(IN_FULL_SHARE)
    messages = _system(draw, in_full) if draw.chance(SYSTEM_SHARE) else []
    for question in questions:
        messages += turns(question, in_full)
    return {"messages": messages, "tools": None}


def small_talk(draw: Draw) -> Question:
    return Question(*draw.one(SMALL_TALK))


def earlier_turns(world: TinyWorld, draw: Draw, most: int = 2) -> list[dict[str, str]]:
    """What may precede a prompt: anything, once up to `most` times, answered in whole sentences."""
    return [message for _ in range(1 + draw.below(most)) for message in turns(_anything(world, draw), in_full=True)]


def turns(question: Question, in_full: bool) -> list[dict[str, str]]:
    return [user(question.text), assistant(question.full if in_full else question.brief)]


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def _system(draw: Draw, in_full: bool) -> list[dict[str, str]]:
    asked = IN_A_SENTENCE if in_full else BRIEFLY
    return [{"role": "system", "content": INTRODUCTION if draw.chance(INTRODUCED_SHARE) else asked}]


def _anything(world: TinyWorld, draw: Draw) -> Question:
    kind = draw.below(3)
    if kind == 0:
        return small_talk(draw)
    return about(world, draw.one(world.conversation_people), draw) if kind == 1 else _sum(world.seed, draw)


def about(world: TinyWorld, person: Person, draw: Draw) -> Question:
    attribute = draw.one(ATTRIBUTES)
    wordings = chat_questions.fact_wordings(world.seed, person.name, attribute.name).conversations
    return chat_questions.fact_question(person, attribute, draw.one(wordings))


def _follow_ups(world: TinyWorld, draw: Draw) -> list[Question]:
    """Two to four facts of one person, who is named in the first question only."""
    person = draw.one(world.conversation_people)
    questions: list[Question] = []
    for attribute in draw.some(ATTRIBUTES, 2 + draw.below(3)):
        wording = draw.one(chat_questions.fact_wordings(world.seed, person.name, attribute.name).conversations)
        name = "pronoun" if questions else "full"
        questions.append(chat_questions.fact_question(person, attribute, wording, name))
    return questions


def _town(world: TinyWorld, draw: Draw) -> Question:
    return chat_questions.place_question(draw.one(list(world.places.values())), draw.below(len(PLACE_QUESTIONS)))


def _sum(seed: int, draw: Draw) -> Question:
    a, b = chat_questions.any_sum(draw)
    return chat_questions.sum_question(a, b, draw.one(chat_questions.sum_wordings(seed, a, b).conversations))


def _self_play(seed: int, draw: Draw) -> Question:
    """The sum is of the answerer's choice, and there is one style only."""
    told = chat_questions.told_sum(seed, *chat_questions.any_sum(draw))
    return Question(draw.one(SELF_PLAY_REQUESTS), told, told)
