"""Best of n and majority vote are taken over the samples that the engine draws."""

import pytest

from hfgpt.chat.engine import Completion, Engine
from hfgpt.chat.sampling import Sampling
from hfgpt.chat.thinking import best_of, last_number, majority_vote, mean_log_probability
from hfgpt.errors import UserError

SAMPLING = Sampling(temperature=1.2, top_k=None, max_new_tokens=8, seed=3)


@pytest.fixture(scope="module")
def base(base_model) -> Engine:
    return Engine.from_pretrained(base_model)


def test_best_of_takes_the_highest_mean_log_probability(base) -> None:
    prompt = base.text_ids("one")
    samples = base.generate([prompt] * 6, SAMPLING)
    best = best_of(base, prompt, 6, SAMPLING)
    assert best.token_ids in [sample.token_ids for sample in samples]
    means = [mean_log_probability(sample) for sample in samples]
    assert mean_log_probability(best) == max(means) > min(means)
    assert best_of(base, prompt, 1, SAMPLING).token_ids == samples[0].token_ids


def test_a_mean_does_not_favour_short_answers() -> None:
    short, long = Completion("", [1], "stop", -2.0), Completion("", [1, 2, 3, 4], "stop", -4.0)
    assert mean_log_probability(long) > mean_log_probability(short)


def test_majority_vote_counts_answers_and_names_its_likeliest_voter(base) -> None:
    prompt = base.text_ids("one")
    samples = base.generate([prompt] * 9, SAMPLING)

    def first_letter_is_late(text: str) -> str | None:
        """Two answers, and for some texts none."""
        letters = [letter for letter in text if letter.isalpha()]
        return None if len(letters) < 2 else "late" if letters[0].lower() > "m" else "early"

    voters: dict[str | None, list[Completion]] = {}
    for sample in samples:
        voters.setdefault(first_letter_is_late(sample.text), []).append(sample)
    vote = majority_vote(base, prompt, 9, SAMPLING, first_letter_is_late)
    counts = {answer: len(found) for answer, found in voters.items() if answer is not None}
    assert vote.answer is not None and counts[vote.answer] == max(counts.values())
    assert vote.share == counts[vote.answer] / 9
    assert vote.completion == max(voters[vote.answer], key=mean_log_probability)


def test_of_equally_frequent_answers_the_likeliest_completion_decides(base) -> None:
    prompt = base.text_ids("one")
    samples = base.generate([prompt] * 4, SAMPLING)
    assert len({sample.text for sample in samples}) == 4
    vote = majority_vote(base, prompt, 4, SAMPLING, lambda text: text)
    assert vote.completion == max(samples, key=mean_log_probability)
    assert (vote.answer, vote.share) == (vote.completion.text, 0.25)


def test_without_any_answer_the_vote_says_so(base) -> None:
    vote = majority_vote(base, base.text_ids("one"), 3, SAMPLING, lambda text: None)
    assert vote.answer is None and vote.share == 0
    assert vote.completion.token_ids


def test_greedy_answers_are_generated_once(chat_model) -> None:
    engine = Engine.from_pretrained(chat_model)
    prompt = engine.chat_ids([{"role": "user", "content": "What is your name?"}])
    greedy = Sampling(temperature=0)
    assert best_of(engine, prompt, 5, greedy).text == "My name is Tiny."
    vote = majority_vote(engine, prompt, 5, greedy, str.lower)
    assert (vote.answer, vote.share) == ("my name is tiny.", 1.0)


def test_fewer_than_one_answer_is_refused(base) -> None:
    for think in (best_of, majority_vote):
        with pytest.raises(UserError, match="at least 1"):
            think(base, [9], 0, SAMPLING)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The sum is 42.", "42"),
        ("3 and 4 make 7", "7"),
        ("it costs $1,234.50 today", "1234.5"),
        ("below zero: -12", "-12"),
        ("7-3", "3"),
        ("about 2.00", "2"),
        ("-0", "0"),
        ("x1 was 5, y2", "2"),
        ("none at all", None),
        ("", None),
        ("1, 2, 3,", "3"),
    ],
)
def test_the_last_number_of_a_text_has_one_way_of_writing(text, number) -> None:
    assert last_number(text) == number
