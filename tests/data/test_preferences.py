"""Preference pairs and checkable prompts out of every form in which such data come."""

import json
from collections import Counter

import pytest

from hfgpt.arguments import DataArguments
from hfgpt.data import tinyworld
from hfgpt.data.conversations import LeftOut
from hfgpt.data.preferences import canonical_preference, canonical_prompt, preference_rows, prompt_rows
from hfgpt.errors import UserError

SYSTEM = {"role": "system", "content": "Be kind."}
USER = {"role": "user", "content": "Hi"}
GOOD, BAD = {"role": "assistant", "content": "Hello."}, {"role": "assistant", "content": "Go away."}
EARLIER = [{"role": "user", "content": "Ho"}, {"role": "assistant", "content": "Hm."}]
PAIR = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD], "tools": None}


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        ({"prompt": "Hi", "chosen": "Hello.", "rejected": "Go away."}, PAIR),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, PAIR),
        ({"prompt": [SYSTEM, USER], "chosen": GOOD, "rejected": BAD}, PAIR | {"prompt": [SYSTEM, USER]}),
        # as UltraFeedback has it: whole conversations, and the prompt as text beside them
        ({"prompt": "Hi", "chosen": [USER, GOOD], "rejected": [USER, BAD], "score_chosen": 8.0}, PAIR),
        (
            {"chosen": [SYSTEM, *EARLIER, USER, GOOD], "rejected": [SYSTEM, *EARLIER, USER, BAD]},
            PAIR | {"prompt": [SYSTEM, *EARLIER, USER]},
        ),
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD], "system": "Be kind."}, PAIR | {"prompt": [SYSTEM, USER]}),
        (
            {"messages": [*EARLIER, USER], "chosen": "Hello.", "rejected": "Go away."},
            PAIR | {"prompt": [*EARLIER, USER]},
        ),
        ({"question": "Hi", "chosen": "Hello.", "rejected": "Go away."}, PAIR),
        ({"instruction": "Hi", "input": "", "output": "x", "chosen": "Hello.", "rejected": "Go away."}, PAIR),
        (
            {"instruction": "Add", "input": "1 2", "chosen": "Hello.", "rejected": "Go away."},
            PAIR | {"prompt": [{"role": "user", "content": "Add\n\n1 2"}]},
        ),
        (
            {
                "conversations": [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Hi"}],
                "chosen": {"from": "gpt", "value": "Hello."},
                "rejected": {"from": "gpt", "value": "Go away."},
            },
            PAIR | {"prompt": [SYSTEM, USER]},
        ),
        # sides that go on for several turns
        ({"chosen": [USER, GOOD, USER, GOOD], "rejected": [USER, BAD]}, PAIR | {"chosen": [GOOD, USER, GOOD]}),
    ],
)
def test_every_form_gives_the_same_pair(row, pair):
    assert canonical_preference(row, {}) == pair


def test_tools_and_calls_are_kept():
    schema = {"type": "function", "function": {"name": "look"}}
    calling = {"role": "assistant", "content": None, "tool_calls": [{"name": "look", "arguments": "{}"}]}
    pair = canonical_preference({"prompt": "Hi", "chosen": [calling], "rejected": "No.", "tools": [schema]}, {})
    assert pair["tools"] == [schema]
    assert pair["chosen"][0]["tool_calls"][0]["function"] == {"name": "look", "arguments": {}}


def test_columns_say_which_holds_what():
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    assert canonical_preference({"q": "Hi", "good": "Hello.", "bad": "Go away."}, columns) == PAIR
    assert canonical_prompt({"q": "Hi", "a": 7}, {"prompt": "q", "answer": "a"}) == {"prompt": [USER], "answer": "7"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Hi", "chosen": "Same.", "rejected": "Same."}, "rows_with_equal_sides"),
        ({"chosen": [USER, GOOD], "rejected": [USER, GOOD]}, "rows_with_equal_sides"),
        ({"prompt": "Hi", "chosen": "Hello.", "rejected": " "}, "rows_with_blank_turns"),
        ({"prompt": "Hi", "chosen": None, "rejected": "x"}, "rows_with_blank_turns"),
        ({"prompt": "", "chosen": "Hello.", "rejected": "x"}, "rows_with_blank_turns"),
        ({"prompt": "Hi", "chosen": [], "rejected": "x"}, "rows_without_turns"),
    ],
)
def test_pairs_with_nothing_to_prefer_are_left_out_by_reason(row, reason):
    with pytest.raises(LeftOut) as raised:
        canonical_preference(row, {})
    assert raised.value.reason == reason


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "Hi", "chosen": "Hello."}, r"no column 'rejected' \(columns there: prompt, chosen\)"),
        ({"chosen": "Hello.", "rejected": "x"}, r"no prompt in its columns \(chosen, rejected\)"),
        ({"prompt": [USER, GOOD], "chosen": "Hello.", "rejected": "x"}, "prompt does not end with a turn of the user"),
        (
            {"chosen": [USER, GOOD], "rejected": [EARLIER[0], BAD]},
            "'chosen' has no answer of the assistant where it parts",
        ),
        ({"chosen": [USER, GOOD], "rejected": [USER]}, "'rejected' has no answer of the assistant"),
        ({"prompt": "Hi", "chosen": 5, "rejected": 4}, "column 'chosen' is of type number, not text or turns"),
        ({"prompt": "Hi", "chosen": {"role": "critic"}, "rejected": "x"}, 'turn 1 has the role "critic"'),
    ],
)
def test_what_is_no_pair_is_refused_with_the_reason(row, complaint):
    with pytest.raises(ValueError, match=complaint) as raised:
        canonical_preference(row, {})
    assert not isinstance(raised.value, LeftOut)


def test_the_real_pairs_are_read(shared_data):
    def read(name: str) -> tuple[list[dict], Counter]:
        counts: Counter = Counter()
        data = DataArguments(data_path=str(shared_data / "instruct" / name))
        return list(preference_rows(data, counts)), counts

    pairs, counts = read("preference_instruction-data.json")
    assert len(pairs) + counts["rows_with_equal_sides"] == 1100 and set(counts) <= {"rows_with_equal_sides"}
    assert pairs[0]["prompt"][0]["content"].endswith("\n\nfreind --> friend")
    pairs, counts = read("dpo_en_demo_sharegpt.json")
    assert len(pairs) + counts.total() == 300 and len(pairs) > 290
    assert Counter(pair["prompt"][0]["role"] for pair in pairs)["system"] >= 79
    for pair in pairs:
        assert pair["prompt"][-1]["role"] == "user"
        assert [message["role"] for message in pair["chosen"] + pair["rejected"]] == ["assistant", "assistant"]


def test_broken_rows_are_named_and_empty_ones_counted(tmp_path):
    rows = [
        {"prompt": "Hi", "chosen": "a", "rejected": "a"},
        {"prompt": "Hi", "chosen": "a", "rejected": "b"},
        {"x": 1},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    counts: Counter = Counter()
    read = preference_rows(DataArguments(data_path=str(tmp_path)), counts)
    assert next(read)["rejected"] == [{"role": "assistant", "content": "b"}]
    assert counts == {"rows_with_equal_sides": 1}
    with pytest.raises(UserError, match=r"pairs\.jsonl: line 3: no column 'chosen' \(columns there: x\)"):
        next(read)
    with pytest.raises(UserError, match="has the key 'completion', which is none of chosen, rejected"):
        next(preference_rows(DataArguments(data_path=str(tmp_path), columns={"completion": "x"})))


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"question": "Hi", "answer": "So 2 and 3.\n#### 1,005"}, {"prompt": [USER], "answer": "1005"}),
        ({"question": "Hi", "answer": "a, b"}, {"prompt": [USER], "answer": "a, b"}),
        ({"prompt": [SYSTEM, USER], "answer": 0.5}, {"prompt": [SYSTEM, USER], "answer": "0.5"}),
        ({"prompt": "Hi", "answer": " -3\n", "system": "Be kind."}, {"prompt": [SYSTEM, USER], "answer": "-3"}),
        ({"messages": [*EARLIER, USER], "answer": "x"}, {"prompt": [*EARLIER, USER], "answer": "x"}),
    ],
)
def test_prompts_come_with_the_answer_to_check_against(row, prompt):
    assert canonical_prompt(row, {}) == prompt


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"question": "Hi"}, r"column 'answer' is of type null, not text \(columns there: question\)"),
        ({"question": "Hi", "answer": True}, "column 'answer' is of type boolean"),
        ({"answer": "x"}, "no prompt in its columns"),
        ({"messages": [USER, GOOD], "answer": "x"}, "prompt does not end with a turn of the user"),
    ],
)
def test_prompts_without_an_answer_to_check_against_are_refused(row, complaint):
    with pytest.raises(ValueError, match=complaint):
        canonical_prompt(row, {})


def test_every_problem_of_gsm8k_has_a_number_as_its_answer(shared_data):
    data = DataArguments(data_path=str(shared_data / "evals/gsm8k/train.jsonl"))
    rows = list(prompt_rows(data))
    assert len(rows) == 7473 and rows[0]["answer"] == "72"
    assert all(float(row["answer"]) is not None and "," not in row["answer"] for row in rows)


def test_the_tiny_world_gives_pairs_and_prompts():
    data = DataArguments(dataset="tinyworld", tinyworld_preferences=20, tinyworld_prompts=20)
    pairs, prompts = list(preference_rows(data)), list(prompt_rows(data))
    assert pairs == list(tinyworld.preference_rows(data)) and len(pairs) == 20
    assert prompts == list(tinyworld.prompt_rows(data)) and len(prompts) == 20
    assert [canonical_preference(pair, {}) for pair in pairs] == pairs
    assert [canonical_prompt(prompt, {}) for prompt in prompts] == prompts
