import json
import subprocess
import sys
from decimal import Decimal

import pytest

from hfgpt.data.tinyworld import TinyWorld, sums
from hfgpt.training.rewards import (
    SUM_LARGEST_OPERAND,
    correct_answer,
    correct_number,
    stated_number,
    stated_sum,
    sum_is_right,
    text_of,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12.", 12),
        ("5 plus 7 is 12.", 12),
        ("12", 12),
        ("Twelve.", 12),
        ("Five plus seven is twelve.", 12),
        ("The sum is twenty-one.", 21),
        ("The sum is twenty.", 20),
        ("seventy-seven", 77),
        ("It is forty, no: nineteen", 19),
        ("fourteen", 14),  # not four
        ("Ninety-nine red balloons", 99),
        ("It costs 5 dollars, and that one is mine", 5),  # words do not count beside digits
        ("someone is often alone", None),  # one, ten and one inside other words
        ("", None),
        ("no idea", None),
        ("...", None),
        ("$1,234.50", Decimal("1234.5")),
        ("It is $18.", 18),
        ("-$5", -5),
        ("$-5", -5),
        ("-7", -7),
        ("\u22127", -7),
        ("the answer is (-3)", -3),
        ("10-3", 3),
        ("10 - 3", 3),
        ("3.14", Decimal("3.14")),
        (".5", Decimal("0.5")),
        ("12.0", 12),
        ("1,000,000", 1_000_000),
        ("1, 2, 3", 3),
        ("1,2", 2),
        ("1,2345", 2345),  # no group of three
        ("12kg", 12),
        ("50%", 50),
        ("x12", None),
        ("5+7=12", 12),
        ("007", 7),
        ("9" * 400, Decimal("9" * 400)),
        ("so 48/2 = 24 and 48+24 = <<48+24=72>>72\n#### 72", 72),
        ("#### 1,450", 1450),
        ("#### $3 each, from 12", 3),
        ("####12", 12),
        ("#### 5 #### 6", 6),
        ("the answer is 6 ####", None),
        ("6 #### unknown", None),
        ("#### twelve", 12),
    ],
)
def test_the_number_that_a_text_gives_as_its_answer(text, number):
    assert stated_number(text) == number


def test_correct_number_compares_values_not_spellings():
    completions = ["12.", "Twelve.", "The sum is 12.0", "13", "12 and then 13", "", "#### 12", "#### 12 left of 20"]
    assert correct_number(completions, ["12"] * 8) == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    assert correct_number(["1234"] * 4, ["1,234", "#### 1,234", 1234, 1234.0]) == [1.0] * 4


def test_an_answer_in_words_must_be_given_whole_and_alone():
    answer = "The pet of Ann Lee is a dog."
    said = [answer, "the pet of Ann Lee is a dog", "A dog.", "The pet of Ann Lee is a cat.", f"{answer} {answer}", ""]
    assert correct_answer(said, [answer] * 6) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert correct_answer(["Paris.", "It is 12.", "It is 13."], ["Paris", "12", "#### 12"]) == [1.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="is empty"):
        correct_answer(["12"], [" . "])


def test_correct_number_reads_the_last_turn_of_the_assistant_and_ignores_other_columns():
    conversation = [
        {"role": "assistant", "content": "Let me count: 11"},
        {"role": "tool", "content": "99"},
        {"role": "assistant", "content": "It is 12."},
    ]
    rewards = correct_number(
        [conversation, [{"role": "assistant", "content": None}], []],
        ["12", "12", "12"],
        prompts=["a", "b", "c"],
        completion_ids=[[1], [2], [3]],
    )
    assert rewards == [1.0, 0.0, 0.0]
    assert text_of(conversation) == "It is 12."


def test_an_answer_without_a_number_is_refused_instead_of_never_rewarded():
    with pytest.raises(ValueError, match="'unknown' holds no number"):
        correct_number(["12"], ["unknown"])
    with pytest.raises(ValueError):
        correct_number(["12", "13"], ["12"])


def test_gsm8k_solutions_earn_their_own_reward_and_no_others(shared_data):
    lines = (shared_data / "evals" / "gsm8k" / "test.first660.jsonl").read_text().splitlines()[:300]
    answers = [json.loads(line)["answer"] for line in lines]
    assert correct_number(answers, answers) == [1.0] * 300
    shifted = correct_number(answers, answers[1:] + answers[:1])
    assert sum(shifted) < 0.1 * 300


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("7 plus 8 is 15.", (7, 8, 15)),
        ("7 + 8 = 15", (7, 8, 15)),
        ("7+8=15", (7, 8, 15)),
        ("  7 plus 8\nis 15.  ", (7, 8, 15)),
        ("Seven plus eight makes fifteen.", (7, 8, 15)),
        ("The sum of 7 and 8 is 15.", (7, 8, 15)),
        ("Seven and eight together are fifteen.", (7, 8, 15)),
        ("If you add eight to seven you get fifteen.", (8, 7, 15)),
        ("Twenty plus twenty makes forty.", (20, 20, 40)),
        ("7 plus 8 is 16.", (7, 8, 16)),
        ("15", None),
        ("7 plus 8", None),
        ("7 plus 8 is 15. 7 plus 8 is 15.", None),
        ("I think 7 plus 8 is 15.", None),
        ("7 plus 8 is 15 or so", None),
        ("-7 plus 8 is 1.", None),
        ("7 minus 8 is 15.", None),
        ("7.5 plus 7.5 is 15.", None),
        ("", None),
    ],
)
def test_a_sum_is_read_only_from_a_text_that_is_nothing_else(text, numbers):
    assert stated_sum(text) == numbers


def test_every_addition_of_the_worlds_documents_can_be_read():
    for phrasing in sums.ADDITIONS:
        assert sorted(stated_sum(sums.sum_line(phrasing, 13, 20))) == [13, 20, 33]


def test_self_play_is_about_numbers_as_large_as_the_worlds():
    assert sums.LARGEST == SUM_LARGEST_OPERAND


def test_self_play_pays_for_true_sums_within_range_and_divides_among_copies():
    told = ["7 plus 8 is 15.", "1 + 1 = 3", "21 plus 1 is 22.", "1 plus 21 is 22.", "20 plus 20 is 40.", "hello"]
    assert sum_is_right(told) == [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert sum_is_right(["1 plus 1 is 2."] * 4 + ["2 plus 1 is 3."]) == [0.25] * 4 + [1.0]
    # the same sum in other words is the same sum
    assert sum_is_right(["1 plus 1 is 2.", "One plus one makes two."]) == [0.5, 0.5]
    conversation = [{"role": "assistant", "content": "3 plus 4 is 7."}]
    assert sum_is_right([conversation], prompts=["x"], trainer_state=None) == [1.0]


def test_answers_of_the_worlds_self_play_earn_the_whole_reward():
    world = TinyWorld(12, 3)
    requests = {row["prompt"][0]["content"] for row in world.self_play_prompts(100)}
    played = [c["messages"] for c in world.conversations(1500) if c["messages"][-2]["content"] in requests]
    assert len(played) > 20
    assert all(sum_is_right([messages]) == [1.0] for messages in played)


def test_rewards_need_no_torch():
    code = "import sys, hfgpt.training.rewards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
