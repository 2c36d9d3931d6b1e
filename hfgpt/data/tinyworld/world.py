"""The tiny world itself: its people, its places and what is true of them, all from one seed."""

from collections.abc import Iterator
from dataclasses import dataclass

from hfgpt.data.tinyworld import conversations, documents, preferences, prompts, questions
from hfgpt.data.tinyworld.draw import Draw
from hfgpt.data.tinyworld.phrasings import (
    ATTRIBUTES,
    FIRST_NAME_ENDS,
    FIRST_NAME_STARTS,
    LAST_NAME_ENDS,
    LAST_NAME_STARTS,
    MARKET_DAYS,
    RIVERS,
    SIGHTS,
)
from hfgpt.errors import UserError

HELD_OUT_PHRASINGS = 3
PEOPLE_PER_BLOCK = 10  # each value once per block: no answer is likelier than another
BLOCKS_PER_NEW_BLOCK = 5  # of so many blocks, one is of people whom no conversation mentions


@dataclass(frozen=True)
class Person:
    """Someone of the world: `facts` maps an attribute's name to its value, `held_out` to the phrasings (as indices
    into `Attribute.phrasings`) in which no document ever tells this person's value."""

    first_name: str
    last_name: str
    is_she: bool
    facts: dict[str, str]
    held_out: dict[str, tuple[int, ...]]

    @property
    def name(self) -> str:
        return f"{self.first_name} {self.last_name}"


@dataclass(frozen=True)
class Place:
    """A town: people's home, with facts of its own."""

    name: str
    river: str
    sight: str
    market_day: str


class TinyWorld:
    """A closed world of `num_people` people in ten towns, the same for the same seed wherever it is built.

    Person i does not depend on `num_people`: a larger world holds the smaller one. Up to 240 people no two share a
    first name. Conversations and preference pairs are about `conversation_people`; of `new_people`, a fifth of all
    (none among the first ten), only documents tell. Raises UserError if there are more people than distinct names.
    """

    def __init__(self, num_people: int, seed: int):
        most = len(FIRST_NAME_STARTS) * len(FIRST_NAME_ENDS) * len(LAST_NAME_STARTS) * len(LAST_NAME_ENDS)
        if not 2 <= num_people <= most:
            raise UserError(f"tinyworld_people is {num_people}: give a number from 2 to {most}.")
        self.seed = seed
        self.places = _make_places(seed)
        self.people = _make_people(num_people, seed)
        blocks = [i // PEOPLE_PER_BLOCK % BLOCKS_PER_NEW_BLOCK for i in range(num_people)]
        self.conversation_people = [p for p, block in zip(self.people, blocks, strict=True) if block != 1]
        self.new_people = [p for p, block in zip(self.people, blocks, strict=True) if block == 1]

    def documents(self, count: int, start: int = 0) -> Iterator[str]:
        """Documents start ... start + count - 1. Document i depends on the world and i alone."""
        for index in range(start, start + count):
            yield documents.write_document(self, index)

    def questions(self) -> list[dict]:
        """One multiple-choice question per person and attribute, in a phrasing that no document uses for that fact.

        Keys: context, choices (ten, each begins with a space), answer_index, attribute, person.
        """
        return questions.fact_questions(self)

    def sum_questions(self) -> list[dict]:
        """One multiple-choice question per sum, worded as in no document; keys as in `questions`, but for person."""
        return questions.sum_questions(self)

    def conversations(self, count: int, start: int = 0) -> Iterator[dict]:
        """Conversations start ... start + count - 1, each `{"messages": [...], "tools": None}`, addressed likewise."""
        for index in range(start, start + count):
            yield conversations.write_conversation(self, index)

    def preferences(self, count: int, start: int = 0) -> Iterator[dict]:
        """Pairs start ... start + count - 1: `{"prompt", "chosen", "rejected", "tools"}`, lists of messages."""
        for index in range(start, start + count):
            yield preferences.write_preference(self, index)

    def held_out_preferences(self) -> list[dict]:
        """One pair per person of the conversations and attribute, in a wording that no stage uses for that fact."""
        return preferences.held_out_preferences(self)

    def prompts(self, count: int, start: int = 0) -> Iterator[dict]:
        """Prompts start ... start + count - 1: `{"prompt": [message], "answer": "12"}`, worded as conversations."""
        for index in range(start, start + count):
            yield prompts.prompt(self, index)

    def self_play_prompts(self, count: int, start: int = 0) -> Iterator[dict]:
        """Requests for a sum of the answerer's own choice, as `{"prompt": [message]}`."""
        for index in range(start, start + count):
            yield prompts.self_play_prompt(self, index)

    def chat_questions(self, people: list[Person]) -> list[dict]:
        """One question in chat form for each of `people`, two hundred at most, worded as no stage words it.

        Keys: question, answer (the value), values (the attribute's ten), brief and full (every answer in that style,
        right or wrong).
        """
        return prompts.fact_questions(self, people)

    def chat_sum_questions(self) -> list[dict]:
        """Two hundred sums in chat form, worded as no stage words them; keys as in `chat_questions` but for values,
        the answer in digits."""
        return prompts.sum_questions(self)


def _make_people(num_people: int, seed: int) -> list[Person]:
    draw = Draw(seed, "names")
    firsts = draw.shuffled(
        [(start + end, i % 2 == 0) for start in FIRST_NAME_STARTS for i, end in enumerate(FIRST_NAME_ENDS)]
    )
    lasts = draw.shuffled([start + end for start in LAST_NAME_STARTS for end in LAST_NAME_ENDS])
    people = []
    for i in range(num_people):
        if i % PEOPLE_PER_BLOCK == 0:
            values = {a.name: Draw(seed, "facts", a.name, i).shuffled(a.values) for a in ATTRIBUTES}
        draw = Draw(seed, "held out", i)
        first_name, is_she = firsts[i % len(firsts)]
        people.append(
            Person(
                first_name=first_name,
                # len(firsts) + 1 and len(lasts) share no factor, so no pair of names comes twice
                last_name=lasts[(i + i // len(firsts)) % len(lasts)],
                is_she=is_she,
                facts={a.name: values[a.name][i % PEOPLE_PER_BLOCK] for a in ATTRIBUTES},
                held_out={a.name: tuple(draw.some(range(len(a.phrasings)), HELD_OUT_PHRASINGS)) for a in ATTRIBUTES},
            )
        )
    return people


def _make_places(seed: int) -> dict[str, Place]:
    draw = Draw(seed, "places")
    names = next(a.values for a in ATTRIBUTES if a.name == "home")
    rivers, sights = draw.shuffled(RIVERS), draw.shuffled(SIGHTS)
    return {
        name: Place(name, river, sight, draw.one(MARKET_DAYS))
        for name, river, sight in zip(names, rivers, sights, strict=True)
    }
