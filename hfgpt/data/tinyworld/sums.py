"""Sums of the tiny world, in digits and in words; one in eight is never told, so that it can be asked."""

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
    *["{a} + {b} = {c}"] * 4,
    "{a} plus {b} is {c}.",
    "{wa} plus {wb} makes {wc}.",
    "If you add {wb} to {wa} you get {wc}.",
)
SUBTRACTIONS = (
    *["{c} - {b} = {a}"] * 4,
    "{c} minus {b} is {a}.",
    "{wc} minus {wb} leaves {wa}.",
    "If you take {wb} from {wc} you keep {wa}.",
)


def is_held_out(seed: int, a: int, b: int) -> bool:
    """Whether no document tells a + b (nor b + a, nor what is left when one is taken from the sum)."""
    return Draw(seed, "sum", min(a, b), max(a, b)).chance(1 / 8)


def held_out_sums(seed: int) -> list[tuple[int, int]]:
    """Every pair (a, b) of operands whose sum no document tells."""
    return [(a, b) for a in range(LARGEST + 1) for b in range(LARGEST + 1) if is_held_out(seed, a, b)]


def write_sums(seed: int, draw: Draw) -> str:
    """A page of about a dozen sums, one a line."""
    lines = []
    for _ in range(10 + draw.below(6)):
        a, b = draw.below(LARGEST + 1), draw.below(LARGEST + 1)
        if not is_held_out(seed, a, b):
            lines.append(_line(draw.one(SUBTRACTIONS if draw.chance(0.3) else ADDITIONS), a, b))
    return "\n".join(lines)


def _line(phrasing: str, a: int, b: int) -> str:
    c = a + b
    text = phrasing.format(a=a, b=b, c=c, wa=NUMBER_WORDS[a], wb=NUMBER_WORDS[b], wc=NUMBER_WORDS[c])
    return text[0].upper() + text[1:]
