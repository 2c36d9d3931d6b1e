"""The settings that make sense, and that draws follow the distribution that they describe."""

import subprocess
import sys

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from hfgpt.chat.sampling import Sampling
from hfgpt.chat.token_choice import TokenChoice
from hfgpt.errors import UserError

DRAWS = 6000
CPU = torch.device("cpu")
# Probabilities from 0.3 down to 0.004, in no order.
LOGITS = torch.tensor([0.1, 2.2, -1.5, 1.4, 0.9, 2.5, -0.3, 1.9, 0.4, -2.0, 1.1, 0.0])


def drawn(sampling: Sampling, logits: torch.Tensor = LOGITS, draws: int = DRAWS) -> torch.Tensor:
    """How often each token came, over rows that all have these logits."""
    choice = TokenChoice(sampling, [[0]] * draws, len(logits), CPU)
    return torch.bincount(choice.choose(logits.expand(draws, -1)), minlength=len(logits))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", (-0.1, float("nan"), float("inf"), "hot", True, 1e-40, 0.0009, 1001, 10**400)),
        ("top_k", (0, -1, 2.5, "5")),
        ("top_p", (0, 1.01, -0.5, float("nan"), 10**400)),
        ("repetition_penalty", (0, -1.0, float("inf"), None, 1e-40, 0.009, 101, -(10**400))),
        ("max_new_tokens", (0, -5, 1.5, None)),
        ("seed", (-1, 2**63, 0.5, False)),
    ],
)
def test_nonsense_is_refused_by_name(name, values) -> None:
    for value in values:
        with pytest.raises(UserError, match=f"^{name} must be"):
            Sampling(**{name: value})


def test_sensible_settings_are_kept() -> None:
    sampling = Sampling(temperature=0, top_k=None, top_p=1, repetition_penalty=2, max_new_tokens=1, seed=2**63 - 1)
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0, 1, 2**63 - 1)
    assert (Sampling().temperature, Sampling().top_k, Sampling().max_new_tokens) == (0.8, 50, 256)


def test_settings_are_read_without_torch() -> None:
    code = "import sys, hfgpt.chat.sampling; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, None, None), (0.5, None, None), (2.0, 5, None), (1.0, None, 0.7), (1.5, 8, 0.8), (0.7, 99, 0.95)],
)
def test_draws_follow_the_distribution_of_transformers_warpers(temperature, top_k, top_p) -> None:
    scores = TemperatureLogitsWarper(temperature)(None, LOGITS[None])
    if top_k is not None:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p is not None:
        scores = TopPLogitsWarper(top_p)(None, scores)
    expected = DRAWS * scores[0].softmax(-1)
    counts = drawn(Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=1))
    kept = expected > 0
    assert counts[~kept].sum() == 0
    chi_square = ((counts - expected) ** 2 / expected)[kept].sum().item()
    # The quantile 0.999 of chi-square with 11 degrees of freedom, the most there are, is 31.3.
    assert chi_square < 31.3
    assert kept.sum() < 12 or (top_k in (None, 99) and top_p is None)


def test_top_k_of_one_and_a_small_top_p_are_greedy() -> None:
    best = int(LOGITS.argmax())
    for sampling in (Sampling(top_k=1, seed=0), Sampling(top_p=1e-6, top_k=None, seed=0), Sampling(temperature=0)):
        assert drawn(sampling, draws=200)[best] == 200


@pytest.mark.parametrize(("top_k", "top_p"), [(None, None), (5, None), (None, 0.9), (5, 0.9)])
def test_a_low_temperature_takes_the_likeliest_token_however_large_the_logits(top_k, top_p) -> None:
    sampling = Sampling(temperature=0.001, top_k=top_k, top_p=top_p, seed=0)
    for logits in (LOGITS, LOGITS * 1e36, (LOGITS - 3) * 1e36):  # divided as they are, these would be infinite
        assert drawn(sampling, logits, draws=50)[LOGITS.argmax()] == 50


@pytest.mark.parametrize(("top_k", "top_p"), [(None, None), (5, None), (None, 0.9), (5, 0.9)])
def test_what_is_chosen_is_a_token_even_where_the_logits_are_none(top_k, top_p) -> None:
    choice = TokenChoice(Sampling(top_k=top_k, top_p=top_p, seed=0), [[0]] * 3, len(LOGITS), CPU)
    tokens = choice.choose(torch.stack([LOGITS, LOGITS * float("nan"), LOGITS]))
    assert tokens.min() >= 0 and tokens.max() < len(LOGITS)


def test_a_token_without_probability_is_never_drawn() -> None:
    logits = torch.full((50,), -float("inf"))
    logits[[7, 31]] = 0.0
    for top_k, top_p in ((None, None), (10, None), (None, 0.9999), (10, 1.0)):
        counts = drawn(Sampling(temperature=1, top_k=top_k, top_p=top_p, seed=4), logits, draws=1000)
        assert counts[7] + counts[31] == 1000 and counts.min() == 0 and counts[[7, 31]].min() > 400


def test_a_penalty_makes_what_was_there_less_likely() -> None:
    sampling = Sampling(temperature=0, repetition_penalty=2.0)
    choice = TokenChoice(sampling, [[5, 1], [2]], len(LOGITS), CPU)
    logits = torch.stack([LOGITS, LOGITS])
    assert choice.choose(logits).tolist() == [7, 5]  # 5 and 1 stood in the first prompt
    assert choice.choose(logits).tolist() == [3, 1]  # and now 7; in the second row 5
    choice.select([1])
    assert choice.choose(LOGITS[None]).tolist() == [7]
    assert TokenChoice(sampling, [[9]], len(LOGITS), CPU).choose(-LOGITS[None].abs()).tolist() == [11]


def test_rows_that_stay_keep_their_own_draws() -> None:
    prompts = [[row] for row in range(8)]
    sampling = Sampling(temperature=1.0, top_k=None, seed=9, max_new_tokens=5)
    logits = torch.randn(8, 300, generator=torch.Generator().manual_seed(0))
    whole, part = (TokenChoice(sampling, prompts, 300, CPU) for _ in range(2))
    assert whole.choose(logits).tolist() == part.choose(logits).tolist()
    part.select([0, 7, 3])
    assert part.choose(logits[[0, 7, 3]]).tolist() == whole.choose(logits)[[0, 7, 3]].tolist()


def test_a_row_draws_what_it_would_draw_alone() -> None:
    sampling = Sampling(temperature=1.0, top_k=None, seed=9)
    logits = torch.zeros(1, 5000)
    alone = [TokenChoice(sampling, [[row]], 5000, CPU).choose(logits).item() for row in range(3)]
    assert TokenChoice(sampling, [[0], [1], [2]], 5000, CPU).choose(logits.expand(3, -1)).tolist() == alone
