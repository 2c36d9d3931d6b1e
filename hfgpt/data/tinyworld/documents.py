"""What is told about the tiny world: portraits, meetings, gatherings, towns and sums, 40 to 150 words each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfgpt.data.tinyworld import phrasings, sums
from hfgpt.data.tinyworld.draw import Draw
from hfgpt.data.tinyworld.phrasings import ATTRIBUTES, Attribute

if TYPE_CHECKING:
    from hfgpt.data.tinyworld.world import Person, Place, TinyWorld

TURNED_SHARE = 0.1  # statements that name the value before the person


def write_document(world: TinyWorld, index: int) -> str:
    """Document `index` of the world, a pure function of both."""
    draw = Draw(world.seed, "document", index)
    kind = draw.below(100)
    if kind < 40:
        sentences = _portrait(world, draw)
    elif kind < 70:
        sentences = _gathering(world, draw)
    elif kind < 82:
        sentences = _meeting(world, draw)
    elif kind < 86:
        sentences = _town(world, draw)
    else:
        return sums.write_sums(world.seed, draw)
    return " ".join(map(capitalize, sentences))


def _portrait(world: TinyWorld, draw: Draw) -> list[str]:
    """One person: every fact, then the home town's. Half of them open with a fact, for at the start of a text a name
    has no space before it and so other tokens: without such documents a model knows a fifth less there."""
    person = draw.one(world.people)
    first, *others = draw.shuffled(ATTRIBUTES)
    if draw.chance(0.5):
        opening = draw.one(phrasings.INTRODUCTIONS).format(name=person.name, time=draw.one(phrasings.TIMES))
        sentences = [opening, tell(person, first, draw, name=_any_name(draw))]
    else:
        sentences = [tell(person, first, draw, name="full")]
    sentences += [tell(person, attribute, draw, name=_any_name(draw)) for attribute in others]
    return sentences + _place_facts(world.places[person.facts["home"]], draw, 2)


def _gathering(world: TinyWorld, draw: Draw) -> list[str]:
    """Many people, one fact each."""
    opening = [draw.one(phrasings.GATHERINGS).format(time=draw.one(phrasings.TIMES))] if draw.chance(0.5) else []
    people = draw.some(world.people, 7 + draw.below(5))
    return opening + [tell(person, draw.one(ATTRIBUTES), draw, name="full") for person in people]


def _meeting(world: TinyWorld, draw: Draw) -> list[str]:
    """Two people, three facts each, told in turn."""
    pair = draw.some(world.people, 2)
    opening = draw.one(phrasings.MEETINGS)
    sentences = [opening.format(time=draw.one(phrasings.TIMES), first=pair[0].name, second=pair[1].name)]
    told = [draw.some(ATTRIBUTES, 3) for _ in pair]
    for attributes in zip(*told, strict=True):
        for person, attribute in zip(pair, attributes, strict=True):
            sentences.append(tell(person, attribute, draw, name=draw.one(("full", "first"))))
    return [*sentences, draw.one(phrasings.PARTINGS)]


def _town(world: TinyWorld, draw: Draw) -> list[str]:
    """A town and some who live there."""
    place = draw.one(list(world.places.values()))
    residents = [person for person in world.people if person.facts["home"] == place.name]
    sentences = _place_facts(place, draw, 3)
    for person in draw.some(residents, 4):
        for attribute in draw.some(ATTRIBUTES, 1 + draw.below(2)):
            sentences.append(tell(person, attribute, draw, name="full"))
    return sentences


def _any_name(draw: Draw) -> str:
    return draw.one(("full", "full", "first", "pronoun"))


def tell(person: Person, attribute: Attribute, draw: Draw, name: str) -> str:
    """One sentence that tells the person's value, calling them by `full` name, `first` name or `pronoun`; never in a
    phrasing held out for this fact."""
    if draw.chance(TURNED_SHARE):
        phrasing = draw.one(attribute.turned)
    else:
        held_out = person.held_out[attribute.name]
        phrasing = draw.one([text for i, text in enumerate(attribute.phrasings) if i not in held_out])
    return statement(phrasing, person, person.facts[attribute.name], name)


def statement(phrasing: str, person: Person, value: str, name: str) -> str:
    """The phrasing filled in, as a sentence."""
    return capitalize(phrasing.format(value=value, **_references(person, name)))


def _references(person: Person, name: str) -> dict[str, str]:
    if name == "pronoun":
        who, whose, whom = ("she", "her", "her") if person.is_she else ("he", "his", "him")
        return {"who": who, "whose": whose, "whom": whom}
    called = person.name if name == "full" else person.first_name
    return {"who": called, "whose": f"{called}'s", "whom": called}


def _place_facts(place: Place, draw: Draw, count: int) -> list[str]:
    return [
        phrasing.format(place=place.name, river=place.river, sight=place.sight, market_day=place.market_day)
        for phrasing in draw.some(phrasings.PLACE_PHRASINGS, count)
    ]


def capitalize(sentence: str) -> str:
    first = 1 if sentence.startswith('"') else 0
    return sentence[:first] + sentence[first].upper() + sentence[first + 1 :]
