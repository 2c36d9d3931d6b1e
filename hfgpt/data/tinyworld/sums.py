"""Sums of the tiny world, in digits and in words; each addition has wordings in which it is never told, to be asked.

Holding out whole sums does not measure arithmetic in a model this small: that a + b is never told also teaches that
c never follows a, and after 1.5 M tokens such a model got 0 of 68 right, with 75% of the told ones.
"""

from functools import cache

from hfgpt.data.tinyworld.draw import Draw

LARGEST = 20  # of the operands of an addition and of the result of a subtraction
UP_TO_NINETEEN = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
NUMBER_WORDS = (
    *UP_TO_NINETEEN,
    *("twenty", *(f"twenty-{word}" for word in UP_TO_NINETEEN[1:10])),
    *("thirty", *(f"thirty-{word}" for word in UP_TO_NINETEEN[1:10])),
    "forty",
)
ADDITIONS = (
    "{a} + {b} = {c}",
    "{a} plus {b} is {c}.",
    "The sum of {a} and {b} is {c}.",
    "{wa} plus {wb} makes {wc}.",
    "If you add {wb} to {wa} you get {wc}.",
    "{wa} and {wb} together are {wc}.",
)
SUBTRACTIONS = (
    "{c} - {b} = {a}",
    "{c} minus {b} is {a}.",
    "{wc} minus {wb} leaves {wa}.",
    "If you take {wb} from {wc} you keep {wa}.",
)
HELD_OUT_ADDITIONS = 2


@cache
def held_out_phrasings(seed: int, a: int, b: int) -> tuple[int, ...]:
    """The phrasings, as indices into ADDITIONS, in which no document tells a + b."""
    return tuple(Draw(seed, "sum", a, b).some(range(len(ADDITIONS)), HELD_OUT_ADDITIONS))


def write_sums(seed: int, draw: Draw) -> str:
    """A page of about a dozen sums, one a line."""
    lines = []
    for _ in range(10 + draw.below(6)):
        a, b = draw.below(LARGEST + 1), draw.below(LARGEST + 1)
        if draw.chance(0.25):
            phrasing = draw.one(SUBTRACTIONS)
        else:
            held_out = held_out_phrasings(seed, a, b)
            phrasing = draw.one([text for i, text in enumerate(ADDITIONS) if i not in held_out])
        lines.append(sum_line(phrasing, a, b))
    return "\n".join(lines)


def sum_line(phrasing: str, a: int, b: int) -> str:
    """The phrasing filled in with a, b and c = a + b."""
    c = a + b
    text = phrasing.format(a=a, b=b, c=c, wa=NUMBER_WORDS[a], wb=NUMBER_WORDS[b], wc=NUMBER_WORDS[c])
    return text[0].upper() + text[1:]
