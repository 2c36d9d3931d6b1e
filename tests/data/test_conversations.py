"""One canonical conversation out of every form in which chat data come."""

import copy
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfgpt.data.conversations import LeftOut, canonical

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Hi\n"}
ASSISTANT = {"role": "assistant", "content": " Hello."}
CALL = {"type": "function", "function": {"name": "look", "arguments": {"q": "cats", "n": 2}}}
SCHEMA = {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}


def calculation(said: str, expression: str, result: str) -> list[dict]:
    call = {"type": "function", "function": {"name": "python", "arguments": {"expression": expression}}}
    return [
        {"role": "assistant", "content": said, "tool_calls": [call]},
        {"role": "tool", "name": "python", "content": result},
    ]


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": [SYSTEM, USER, ASSISTANT]}, [SYSTEM, USER, ASSISTANT]),
        ([USER, ASSISTANT, USER, ASSISTANT], [USER, ASSISTANT, USER, ASSISTANT]),
        ({"messages": json.dumps([USER, ASSISTANT])}, [USER, ASSISTANT]),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, "i\n"]}, ASSISTANT]},
            [USER, ASSISTANT],
        ),
        (
            {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "human", "content": "Hi\n"}]},
            [SYSTEM, USER],
        ),
        ({"messages": [{"role": "system", "content": " "}, USER, ASSISTANT], "system": ""}, [USER, ASSISTANT]),
        ({"messages": [SYSTEM, USER], "system": "Other."}, [SYSTEM, USER]),
        ({"instruction": "Hi\n", "input": "", "output": " Hello."}, [USER, ASSISTANT]),
        ({"instruction": "Hi\n", "output": " Hello."}, [USER, ASSISTANT]),
        (
            {"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be brief."},
            [SYSTEM, {"role": "user", "content": "Add.\n\n1 2"}, {"role": "assistant", "content": "3"}],
        ),
        ({"prompt": "Hi\n", "completion": " Hello."}, [USER, ASSISTANT]),
        ({"prompt": [SYSTEM, USER], "completion": [ASSISTANT]}, [SYSTEM, USER, ASSISTANT]),
        ({"prompt": [SYSTEM, USER], "completion": ASSISTANT}, [SYSTEM, USER, ASSISTANT]),
        ({"question": "Hi\n", "answer": " Hello."}, [USER, ASSISTANT]),
        (
            {"system": "Be brief.", "conversations": [{"from": "human", "value": "Hi\n"}]},
            [SYSTEM, USER],
        ),
        (
            {"conversations": [{"from": "user", "value": "Hi\n"}, {"from": "assistant", "value": " Hello."}]},
            [USER, ASSISTANT],
        ),
        # a Parquet file may have both pairs of keys, those that are not used null
        (
            {"messages": [{"role": None, "content": None, "from": "human", "value": "Hi\n", "tool_calls": None}]},
            [USER],
        ),
        ({"messages": [ASSISTANT, ASSISTANT, USER, USER]}, [ASSISTANT, ASSISTANT, USER, USER]),
    ],
)
def test_every_form_gives_the_same_messages(row, messages):
    given = copy.deepcopy(row)
    assert canonical(row, {}) == {"messages": messages, "tools": None}
    assert row == given


def test_calls_and_results_in_the_forms_of_hf_openai_and_sharegpt():
    expected = {
        "messages": [
            USER,
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "name": "look", "content": "two cats"},
            ASSISTANT,
        ],
        "tools": [{"type": "function", "function": SCHEMA}],
    }
    bare = CALL["function"]
    openai = {"id": "x1", "type": "function", "function": bare | {"arguments": json.dumps(bare["arguments"])}}
    for calls, result in [
        ([CALL], {"role": "tool", "name": "look", "content": "two cats"}),
        ([bare], {"role": "tool", "content": "two cats"}),
        ([openai], {"role": "tool", "tool_call_id": "x1", "content": "two cats"}),
    ]:
        turns = [USER, {"role": "assistant", "content": None, "tool_calls": calls}, result, ASSISTANT]
        assert canonical({"messages": turns, "tools": expected["tools"]}, {}) == expected
    older = [USER, {"role": "assistant", "content": None, "function_call": bare}]
    older += [{"role": "function", "name": "look", "content": "two cats"}, ASSISTANT]
    assert canonical({"messages": older, "tools": json.dumps(expected["tools"])}, {}) == expected
    sharegpt = [
        {"from": "human", "value": "Hi\n"},
        {"from": "function_call", "value": json.dumps(bare)},
        {"from": "observation", "value": "two cats"},
        {"from": "gpt", "value": " Hello."},
    ]
    assert canonical({"conversations": sharegpt, "tools": json.dumps([SCHEMA])}, {}) == expected
    assert canonical({"conversations": sharegpt, "tools": "[]"}, {})["tools"] is None


def test_results_get_the_names_of_the_calls_in_their_order():
    calls = [{"name": name, "arguments": "{}"} for name in ("python", "look")]
    turns = [USER, {"role": "assistant", "content": "", "tool_calls": calls}]
    turns += [{"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}, {"role": "tool", "content": "3"}]
    messages = canonical(turns, {})["messages"]
    assert [message.get("name") for message in messages[2:]] == ["python", "look", None]


def test_parts_that_run_python_become_calls_results_and_the_assistant_going_on():
    parts = [
        {"type": "text", "text": "Let me see: "},
        {"type": "python", "text": "6*7"},
        {"type": "python_output", "text": "42"},
        {"type": "python", "text": "42/2"},
        {"type": "python_output", "text": "21"},
        {"type": "text", "text": "It is "},
        {"type": "text", "text": "21."},
    ]
    messages = canonical([USER, {"role": "assistant", "content": parts}, USER], {})["messages"]
    assert messages == [
        USER,
        *calculation("Let me see: ", "6*7", "42"),
        *calculation("", "42/2", "21"),
        {"role": "assistant", "content": "It is 21."},
        USER,
    ]


def test_a_gsm8k_answer_runs_python_for_each_of_its_sums():
    row = {
        "question": "How many?",
        "answer": "He has 48/2 = $<<48/2=24>>24.\nSo <<24+1=25>>25.\n#### 25",
    }
    assert canonical(row, {})["messages"] == [
        {"role": "user", "content": "How many?"},
        *calculation("He has 48/2 = $", "48/2", "24"),
        *calculation("24.\nSo ", "24+1", "25"),
        {"role": "assistant", "content": "25.\n#### 25"},
    ]
    elsewhere = {"question": "Launch it.", "answer": "kernel<<<grid=1, block>>>(x) and cout <<a=b>> c"}
    assert canonical(elsewhere, {})["messages"][1] == {"role": "assistant", "content": elsewhere["answer"]}


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"dialogue": [USER, ASSISTANT]}, {"messages": "dialogue"}),
        ({"q": "Hi\n", "a": " Hello."}, {"prompt": "q", "completion": "a"}),
        ({"q": "Hi\n", "output": " Hello."}, {"instruction": "q"}),
        ({"messages": "x", "q": "Hi\n", "a": " Hello."}, {"question": "q", "answer": "a"}),
        (
            {"chat": [{"from": "human", "value": "Hi\n"}, {"from": "gpt", "value": " Hello."}]},
            {"conversations": "chat"},
        ),
    ],
)
def test_columns_say_which_holds_what(row, columns):
    assert canonical(row, columns)["messages"] == [USER, ASSISTANT]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": []}, "rows_without_turns"),
        ({"messages": None}, "rows_without_turns"),
        ([], "rows_without_turns"),
        ({"messages": [USER, {"role": "assistant", "content": " \n"}]}, "rows_with_blank_turns"),
        ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": []}]}, "rows_with_blank_turns"),
        ({"messages": [{"role": "user", "content": None}, ASSISTANT]}, "rows_with_blank_turns"),
        ({"instruction": "Hi", "input": "", "output": ""}, "rows_with_blank_turns"),
        ({"prompt": "Hi", "completion": None}, "rows_with_blank_turns"),
        ({"messages": [USER, {"role": "assistant", "content": "half of \ud83d"}]}, "rows_with_broken_unicode"),
    ],
)
def test_rows_with_nothing_to_learn_from_are_left_out_by_reason(row, reason):
    with pytest.raises(LeftOut) as raised:
        canonical(row, {})
    assert raised.value.reason == reason


@pytest.mark.parametrize(
    ("row", "columns", "complaint"),
    [
        ("hello", {}, "it is a JSON string, not an object"),
        (None, {}, "it is a JSON null"),
        ({"text": "hello"}, {}, r"no conversation in its columns \(text\), which should be messages, conversations"),
        ({"chosen": "a", "rejected": "b"}, {}, "chosen and rejected are preference pairs, for dpo"),
        ({"messages": [USER]}, {"messages": "dialogue"}, "says {messages: dialogue}, but its columns are messages"),
        ({"messages": {"role": "user"}}, {}, "'messages' is of type object, not a list of turns"),
        ({"messages": "not JSON"}, {}, "column 'messages' is not valid JSON"),
        ({"messages": [USER, "Hello."]}, {}, "turn 2 is of type string, not an object with role and content"),
        ({"messages": [{"role": "critic", "content": "x"}]}, {}, 'turn 1 has the role "critic"; roles are system'),
        ({"messages": [{"role": 3, "content": "x"}]}, {}, "turn 1 has the role 3"),
        ({"messages": [USER, {"content": "x"}]}, {}, "turn 2 has no role"),
        ({"messages": [USER, {"role": "assistant", "content": 5}]}, {}, "turn 2 has content of type number, not text"),
        ({"messages": [USER, {"role": "assistant", "content": {}}]}, {}, "turn 2 has content of type object"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]},
            {},
            "turn 1 has a part of type image that is not text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "python", "text": "1"}]}]},
            {},
            "turn 1 of the user has a part of type python, which only an assistant's can",
        ),
        ({"messages": [USER | {"tool_calls": [CALL]}]}, {}, "turn 1 of the user calls a tool"),
        ({"messages": [ASSISTANT | {"tool_calls": ["look"]}]}, {}, "turn 1 calls a tool without a name"),
        (
            {"messages": [ASSISTANT | {"tool_calls": [{"name": "look", "arguments": "{"}]}]},
            {},
            "the call of look in turn 1 is not valid JSON",
        ),
        (
            {"messages": [ASSISTANT | {"tool_calls": [{"name": "look", "arguments": [1]}]}]},
            {},
            "turn 1 calls look with arguments of type list, not an object",
        ),
        ({"conversations": [{"from": "function_call", "value": "look()"}]}, {}, "turn 1 is not valid JSON"),
        ({"messages": [USER], "tools": "{"}, {}, "column 'tools' is not valid JSON"),
        ({"messages": [USER], "tools": ["look"]}, {}, "column 'tools' is not a list of JSON schemas"),
        ({"messages": [USER], "system": 1}, {}, "column 'system' is of type number, not text"),
        ({"instruction": "Hi", "output": 4}, {}, "column 'output' is of type number, not text"),
        ({"prompt": "Hi", "completion": 4}, {}, "column 'completion' is of type number, not text or turns"),
    ],
)
def test_what_is_no_conversation_is_refused_with_the_reason(row, columns, complaint):
    with pytest.raises(ValueError, match=complaint) as raised:
        canonical(row, columns)
    assert not isinstance(raised.value, LeftOut)
    assert "\n" not in str(raised.value)


def test_every_row_of_the_real_files_becomes_a_conversation(shared_data):
    roles: dict[str, Counter] = {}
    for path in sorted((shared_data / "instruct").glob("*.json*")):
        text = path.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
        roles[path.stem] = Counter()
        for row in rows:
            conversation = canonical(row, {})
            assert canonical(conversation, {}) == conversation
            roles[path.stem].update(message["role"] for message in conversation["messages"])
            roles[path.stem]["calls"] += sum("tool_calls" in message for message in conversation["messages"])
            roles[path.stem]["tools"] += conversation["tools"] is not None
    assert roles["alpaca_en_demo"] == {"user": 999, "assistant": 999, "calls": 0, "tools": 0}
    assert roles["alpaca_format_instruction-data"] == {"user": 1100, "assistant": 1100, "calls": 0, "tools": 0}
    with_tools = roles["glaive_toolcall_en_demo_sharegpt"]
    assert (with_tools["calls"], with_tools["tool"]) == (211, 211) and 0 < with_tools["tools"] < 300
    assert roles["derived_messages"]["user"] == roles["identity_conversations"]["user"] + 1100


def test_gsm8k_gives_back_its_own_text(shared_data):
    calls = 0
    for line in (shared_data / "evals/gsm8k/train.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        user, *answer = canonical(row, {})["messages"]
        assert user == {"role": "user", "content": row["question"]}
        text = ""
        for message in answer:
            if message["role"] == "tool":
                text += f"={message['content']}>>"
            else:
                text += message["content"]
                for call in message.get("tool_calls", []):
                    text += f"<<{call['function']['arguments']['expression']}"
                    calls += 1
        assert text == row["answer"]
    assert calls > 20_000


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["user", "assistant", "tool"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "conversations", "role", "content", "from", "value", "type", "text", "tool_calls"]
                + ["function", "name", "arguments", "prompt", "completion", "tools", "question", "answer"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_any_json_gives_a_conversation_or_a_reason(row):
    try:
        conversation = canonical(row, {})
    except ValueError as error:
        assert str(error)
        return
    assert canonical(conversation, {}) == conversation
    assert all(isinstance(message["content"], str) for message in conversation["messages"])
