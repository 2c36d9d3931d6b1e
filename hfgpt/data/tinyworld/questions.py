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
    """Every held-out addition; the wrong choices are the nine numbers nearest to the sum."""
    result = []
    for a, b in sums.held_out_sums(world.seed):
        draw = Draw(world.seed, "sum question", a, b)
        lowest = max(0, a + b - draw.below(NUM_CHOICES))
        numbers = draw.shuffled(range(lowest, lowest + NUM_CHOICES))
        result.append(
            {
                "context": f"{a} + {b} =",
                "choices": [f" {number}" for number in numbers],
                "answer_index": numbers.index(a + b),
                "attribute": "sum",
            }
        )
    return result
