"""More thinking at inference time: sample several answers in one batch, keep the best or what most of them say."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from hfgpt.chat.engine import Completion, Engine
from hfgpt.chat.sampling import Sampling
from hfgpt.errors import UserError


@dataclass
class Vote:
    """What most of the answers say, as self-consistency takes it (Wang et al. 2022, arXiv:2203.11171)."""

    answer: str | None  # None: no answer could be read from any of them
    share: float  # of all completions that say so
    completion: Completion  # the likeliest one that says so


def best_of(engine: Engine, prompt_ids: list[int], n: int, sampling: Sampling) -> Completion:
    """Of `n` sampled answers the one with the highest mean log probability per token."""
    return max(_samples(engine, prompt_ids, n, sampling), key=mean_log_probability)


def majority_vote(
    engine: Engine,
    prompt_ids: list[int],
    n: int,
    sampling: Sampling,
    answer_of: Callable[[str], str | None] | None = None,
) -> Vote:
    """The most frequent answer among `n` samples, read from each text by `answer_of`, by default its last number.
    Between answers that are as frequent the likeliest completion decides."""
    completions = _samples(engine, prompt_ids, n, sampling)
    by_answer: dict[str, list[Completion]] = {}
    for completion in completions:
        answer = (answer_of or last_number)(completion.text)
        if answer is not None:
            by_answer.setdefault(answer, []).append(completion)
    if not by_answer:
        return Vote(None, 0.0, max(completions, key=mean_log_probability))
    best = {answer: max(voters, key=mean_log_probability) for answer, voters in by_answer.items()}
    answer = max(by_answer, key=lambda answer: (len(by_answer[answer]), mean_log_probability(best[answer])))
    return Vote(answer, len(by_answer[answer]) / len(completions), best[answer])


def last_number(text: str) -> str | None:
    """The last number in a text in one way of writing: `1,234.50` is `1234.5`. None where there is none."""
    numbers = re.findall(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?|\d+(?:\.\d+)?", text)
    if not numbers:
        return None
    whole, _, decimals = numbers[-1].replace(",", "").partition(".")
    number = f"{whole}.{decimals.rstrip('0')}".rstrip(".")
    return "0" if number == "-0" else number


def mean_log_probability(completion: Completion) -> float:
    """Nats per token: a sum would favour short answers."""
    return completion.log_probability / len(completion.token_ids)


def _samples(engine: Engine, prompt_ids: list[int], n: int, sampling: Sampling) -> list[Completion]:
    if n < 1:
        raise UserError(f"The number of answers to choose from must be at least 1, not {n}.")
    # Greedy answers are all the same one.
    return engine.generate([prompt_ids] * (n if sampling.temperature > 0 else 1), sampling)
