"""Prompts of the tiny world whose answers can be checked: sums, and some facts, for reinforcement learning, and the
held-out questions that the evaluation asks in chat form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfgpt.data.tinyworld import chat_questions, sums
from hfgpt.data.tinyworld.chat_phrasings import SELF_PLAY_REQUESTS, SUM_ANSWERS
from hfgpt.data.tinyworld.conversations import earlier_turns, small_talk, user
from hfgpt.data.tinyworld.draw import Draw
from hfgpt.data.tinyworld.phrasings import ATTRIBUTES

if TYPE_CHECKING:
    from hfgpt.data.tinyworld.world import Person, TinyWorld

MOST_QUESTIONS = 200  # asked in seconds, with a standard error of at most 3.5 points


# Per cents. With sums alone, what is said of people and of oneself comes apart: nothing else is rewarded any more.
SMALL_TALK_SHARE, FACT_SHARE = 8, 20
LATER_SHARE = 0.5  # of the small talk: what something precedes; without it, sums are followed by sums again


def prompt(world: TinyWorld, index: int) -> dict:
    """Prompt `index`: a sum, a question about a person's fact, or small talk, worded as conversations may word it. The
    answer is the sum in digits, or the preferred sentence."""
    draw = Draw(world.seed, "prompt", index)
    kind = draw.below(100)
    if kind < SMALL_TALK_SHARE:
        said = small_talk(draw)
        before = earlier_turns(world, draw, most=1) if draw.chance(LATER_SHARE) else []
        return {"prompt": [*before, user(said.text)], "answer": said.full}
    if kind < SMALL_TALK_SHARE + FACT_SHARE:
        person, attribute = draw.one(world.conversation_people), draw.one(ATTRIBUTES)
        wordings = chat_questions.fact_wordings(world.seed, person.name, attribute.name)
        question = chat_questions.fact_question(person, attribute, draw.one(wordings.conversations))
        return {"prompt": [user(question.text)], "answer": question.full}
    a, b = chat_questions.any_sum(draw)
    wording = draw.one(chat_questions.sum_wordings(world.seed, a, b).conversations)
    return {"prompt": [user(chat_questions.sum_question(a, b, wording).text)], "answer": str(a + b)}


def self_play_prompt(world: TinyWorld, index: int) -> dict:
    return {"prompt": [user(Draw(world.seed, "self-play prompt", index).one(SELF_PLAY_REQUESTS))]}


def fact_questions(world: TinyWorld, people: list[Person]) -> list[dict]:
    """A question about one attribute of each of `people`, at most MOST_QUESTIONS, held out from all stages.

    Keys: question, answer (the value), values (the attribute's ten), brief and full (every answer in that style,
    right or wrong).
    """
    result = []
    for i, person in enumerate(people[:MOST_QUESTIONS]):
        attribute = ATTRIBUTES[i % len(ATTRIBUTES)]
        draw = Draw(world.seed, "chat question", person.name)
        wording = draw.one(chat_questions.fact_wordings(world.seed, person.name, attribute.name).held_out)
        result.append(
            {
                "question": chat_questions.fact_question(person, attribute, wording).text,
                "answer": person.facts[attribute.name],
                "values": list(attribute.values),
                "brief": [chat_questions.brief_answer(person, attribute, value) for value in attribute.values],
                "full": [chat_questions.full_answer(person, attribute, value) for value in attribute.values],
            }
        )
    return result


def sum_questions(world: TinyWorld) -> list[dict]:
    """Sums in wordings that neither conversations nor prompts use for them.

    Keys as in `fact_questions` but for values; the answer is in digits, whatever the question is in.
    """
    operands = range(chat_questions.LARGEST_IN_CHAT + 1)
    pairs = [(a, b) for a in operands for b in operands]
    result = []
    for a, b in Draw(world.seed, "chat sums").some(pairs, MOST_QUESTIONS):
        draw = Draw(world.seed, "chat sum", a, b)
        wording = draw.one(chat_questions.sum_wordings(world.seed, a, b).held_out)
        brief, full = SUM_ANSWERS[chat_questions.is_in_words(wording)]
        numbers = range(2 * sums.LARGEST + 1)
        result.append(
            {
                "question": chat_questions.sum_question(a, b, wording).text,
                "answer": str(a + b),
                "brief": [sums.sum_line(brief, 0, number) for number in numbers],
                "full": [sums.sum_line(full, 0, number) for number in numbers],
            }
        )
    return result
