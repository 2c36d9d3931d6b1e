"""How a next token is chosen, as numbers. No torch here: command lines read this before anything heavy loads."""

import math
from dataclasses import dataclass

from hfgpt.errors import UserError

# Beyond these a logit that is divided may leave what float32 holds.
TEMPERATURES = (0.001, 1000)
PENALTIES = (0.01, 100)


@dataclass(frozen=True)
class Sampling:
    """Settings of one generation; applied in HF's order: repetition penalty, temperature, top-k, top-p.

    Raises UserError, which names the setting, for a value that makes no sense.
    """

    temperature: float = 0.8  # 0: greedy, always the likeliest token
    top_k: int | None = 50  # keep the k likeliest tokens
    top_p: float | None = None  # keep the likeliest tokens that together reach this probability
    repetition_penalty: float = 1.0  # over 1: tokens of prompt and answer become less likely (Keskar et al. 2019)
    max_new_tokens: int = 256
    seed: int | None = None  # the same seed gives the same text; None: another one each time

    def __post_init__(self) -> None:
        (least, most), temperature = TEMPERATURES, _number(self.temperature)
        wanted = f"0 (greedy) or from {least} to {most}"
        _require(temperature == 0 or least <= temperature <= most, "temperature", self.temperature, wanted)
        (least, most), penalty = PENALTIES, _number(self.repetition_penalty)
        wanted = f"from {least} to {most}"
        _require(least <= penalty <= most, "repetition_penalty", self.repetition_penalty, wanted)
        _require(_whole(self.max_new_tokens) >= 1, "max_new_tokens", self.max_new_tokens, "a whole number from 1 on")
        if self.top_k is not None:
            _require(_whole(self.top_k) >= 1, "top_k", self.top_k, "a whole number from 1 on, or left out")
        if self.top_p is not None:
            _require(0 < _number(self.top_p) <= 1, "top_p", self.top_p, "above 0 and at most 1, or left out")
        if self.seed is not None:
            _require(0 <= _whole(self.seed) < 2**63, "seed", self.seed, "a whole number from 0 to 2^63 - 1")


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise UserError(f"{name} must be {wanted}, not {value!r}.")


def _number(value: object) -> float:
    """The value as a finite float; -1, which every setting refuses, for what is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return -1.0
    try:
        number = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return -1.0
    return number if math.isfinite(number) else -1.0


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else -1
