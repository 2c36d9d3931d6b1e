"""Multiple-choice questions about the tiny world. No document holds their wording with the right answer, so that a
score is knowledge and not memory of a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfgpt.data.tinyworld import sums
from hfgpt.data.tinyworld.documents import statement
from hfgpt.data.tinyworld.draw import Draw
from hfgpt.data.tinyworld.phrasings import ATTRIBUTES

if TYPE_CHECKING:
    from hfgpt.data.tinyworld.world import TinyWorld

NUM_CHOICES = 10
NEW_LINE = "\n"


def fact_questions(world: TinyWorld) -> list[dict]:
    """One question per person and attribute: a held-out sentence cut off before the value, the attribute's ten values
    in random order as choices."""
    result = []
    for person in world.people:
        for attribute in ATTRIBUTES:
            draw = Draw(world.seed, "question", person.name, attribute.name)
            phrasing = attribute.phrasings[draw.one(person.held_out[attribute.name])]
            context, _ = statement(phrasing, person, "{value}", name="full").split(" {value}")
            values = draw.shuffled(attribute.values)
            result.append(
                {
                    "context": context,
                    "choices": [f" {value}" for value in values],
                    "answer_index": values.index(person.facts[attribute.name]),
                    "attribute": attribute.name,
                    "person": person.name,
                }
            )
    return result


def sum_questions(world: TinyWorld) -> list[dict]:
    """One question per pair of numbers: a held-out line cut off before the sum; the wrong choices are the nine
    numbers around it, in digits or in words as the line has them. A choice runs to the end of its sentence, or else
    "twenty" would always be likelier than "twenty-one"."""
    result = []
    for a in range(sums.LARGEST + 1):
        for b in range(sums.LARGEST + 1):
            draw = Draw(world.seed, "sum question", a, b)
            phrasing = sums.ADDITIONS[draw.one(sums.held_out_phrasings(world.seed, a, b))]
            in_words = "{wc}" in phrasing
            line = sums.sum_line(phrasing, a, b)
            answer = sums.NUMBER_WORDS[a + b] if in_words else str(a + b)
            lowest = min(max(0, a + b - draw.below(NUM_CHOICES)), 2 * sums.LARGEST + 1 - NUM_CHOICES)
            numbers = draw.shuffled(range(lowest, lowest + NUM_CHOICES))
            context, _, ending = line.rpartition(f" {answer}")
            result.append(
                {
                    "context": context,
                    "choices": [f" {sums.NUMBER_WORDS[n] if in_words else n}{ending or NEW_LINE}" for n in numbers],
                    "answer_index": numbers.index(a + b),
                    "attribute": "sum",
                }
            )
    return result
