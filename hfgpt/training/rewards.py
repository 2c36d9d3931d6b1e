"""Rewards that a program can check, in TRL's form `(completions, **columns) -> list[float]`, one figure a completion.

Pure functions of text: a completion is a string or, as TRL hands it over for conversations, the list of its turns.
"""

import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal

Completion = str | Sequence[dict]

UP_TO_NINETEEN = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NUMBER_WORDS = {word: value for value, word in enumerate(UP_TO_NINETEEN)} | {
    f"{word}-{UP_TO_NINETEEN[ones]}" if ones else word: 10 * tens + ones
    for tens, word in enumerate(TENS, 2)
    for ones in range(10)
}
IN_WORDS = "|".join(sorted(NUMBER_WORDS, key=len, reverse=True))  # "seventy-one" is tried before "seventy"
WORDED = re.compile(rf"(?<![\w-])(?:{IN_WORDS})(?![\w-])")
# With thousands in groups of three, decimals, a dollar sign, and a minus that does not stand between two numbers.
IN_DIGITS = re.compile(r"(?<![\w.])[-\u2212]?\$?-?(?:(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|\.\d+)")

PUNCTUATION = ".,;:!?\"'()[]\u2018\u2019\u201c\u201d"
SUM_LARGEST_OPERAND = 20  # the tiny world's
OPERAND = rf"(\d+|{IN_WORDS})"
SUMS = [
    re.compile(wording)
    for wording in (
        rf"{OPERAND} ?(?:plus|\+) ?{OPERAND} ?(?:is|makes|equals|=) ?{OPERAND}\.?",
        rf"{OPERAND} and {OPERAND} together are {OPERAND}\.?",
        rf"the sum of {OPERAND} and {OPERAND} is {OPERAND}\.?",
        rf"if you add {OPERAND} to {OPERAND} you get {OPERAND}\.?",
    )
]


def correct_answer(completions: Sequence[Completion], answer: Sequence[object], **columns) -> list[float]:
    """1.0 where the completion gives `answer`, else 0.0: by `correct_number` where that holds a number, else by its
    words, whatever their case and the punctuation around them. Raises ValueError for an empty answer."""
    rewards = []
    for completion, expected in zip(completions, answer, strict=True):
        if stated_number(str(expected)) is not None:
            rewards += correct_number([completion], [expected])
        elif words := _words(str(expected)):
            rewards.append(float(_words(text_of(completion)) == words))
        else:
            raise ValueError(f"The answer {str(expected)!r} is empty: a completion cannot be compared with it.")
    return rewards


def correct_number(completions: Sequence[Completion], answer: Sequence[object], **columns) -> list[float]:
    """1.0 where the completion's number is that of `answer`, else 0.0.

    What counts is the first number after the last `####` (GSM8K's mark), or without one the last number of the text.
    Words up to ninety-nine are read where the text has no digits. Raises ValueError for an answer without a number.
    """
    rewards = []
    for completion, expected in zip(completions, answer, strict=True):
        number = stated_number(str(expected))
        if number is None:
            raise ValueError(f"The answer {str(expected)!r} holds no number to compare a completion with.")
        rewards.append(float(stated_number(text_of(completion)) == number))
    return rewards


def sum_is_right(completions: Sequence[Completion], **columns) -> list[float]:
    """The reward of self-play: 1.0 for a completion that is nothing but a true sum of two numbers up to 20, divided
    among the completions of this call that state the same sum, so that one sum learnt by heart does not pay."""
    sums = [stated_sum(text_of(completion)) for completion in completions]
    copies = Counter(sums)
    return [1 / copies[stated] if stated and _is_right(*stated) else 0.0 for stated in sums]


def stated_number(text: str) -> Decimal | None:
    """The number that a text gives as its answer (see `correct_number`); None if there is none."""
    _, mark, marked = text.rpartition("####")
    numbers = IN_DIGITS.findall(marked if mark else text)
    if numbers:
        return Decimal(re.sub(r"[,$]", "", numbers[0 if mark else -1]).replace("\u2212", "-"))
    words = WORDED.findall((marked if mark else text).lower())
    return Decimal(NUMBER_WORDS[words[0 if mark else -1]]) if words else None


def stated_sum(text: str) -> tuple[int, int, int] | None:
    """(a, b, c) of a text that says "a plus b is c" in digits or words and nothing more, right or wrong; else None."""
    sentence = " ".join(text.lower().split())
    for wording in SUMS:
        if match := wording.fullmatch(sentence):
            a, b, c = (NUMBER_WORDS[word] if word in NUMBER_WORDS else int(word) for word in match.groups())
            return a, b, c
    return None


def text_of(completion: Completion) -> str:
    """The text of a completion; of several turns, the last assistant's."""
    if isinstance(completion, str):
        return completion
    return next((turn["content"] or "" for turn in reversed(completion) if turn["role"] == "assistant"), "")


def _words(text: str) -> list[str]:
    return [word for word in (word.strip(PUNCTUATION) for word in text.casefold().split()) if word]


def _is_right(a: int, b: int, c: int) -> bool:
    return a + b == c and max(a, b) <= SUM_LARGEST_OPERAND
