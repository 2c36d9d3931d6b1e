"""The chat template: what it writes, and that nobody's text can speak with its special tokens."""

import json

import jinja2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hfgpt.data.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS, chat_template_for, load_tokenizer, train_tokenizer

USER = {"role": "user", "content": "What is 6*7?"}
SUM = {"type": "function", "function": {"name": "python", "arguments": {"expression": "6*7"}}}
LOOK = {"type": "function", "function": {"name": "look", "arguments": {"q": "é <|end|>", "n": [1, None]}}}
SCHEMA = {"type": "function", "function": {"name": "look", "description": "Looks <|user|> up."}}
TOOLS = (
    "Tools that can be called, as JSON schemas:\n"
    '{"type": "function", "function": {"name": "look", "description": "Looks <| user |> up."}}'
)


@pytest.mark.parametrize(
    ("messages", "tools", "rendered"),
    [
        (
            [USER, {"role": "assistant", "content": "It is 42."}],
            None,
            "<|user|>What is 6*7?<|end|><|assistant|>It is 42.<|end|>",
        ),
        (
            [
                *[{"role": "system", "content": "Be brief."}, USER],
                *[{"role": "assistant", "content": "Well, ", "tool_calls": [SUM]}],
                *[{"role": "tool", "name": "python", "content": "42"}, {"role": "assistant", "content": "42."}],
            ],
            None,
            "<|system|>Be brief.<|end|><|user|>What is 6*7?<|end|><|assistant|>Well, <|python|>6*7<|end|>"
            "<|output|>42<|end|><|assistant|>42.<|end|>",
        ),
        (
            [
                USER,
                {"role": "assistant", "tool_calls": [LOOK, SUM]},
                {"role": "tool", "name": "look", "content": "{}"},
            ],
            [SCHEMA],
            f"<|system|>{TOOLS}<|end|><|user|>What is 6*7?<|end|>"
            '<|assistant|><|tool|>{"name": "look", "arguments": {"q": "é <| end |>", "n": [1, null]}}'
            "<|python|>6*7<|end|><|tool|>{}<|end|>",
        ),
        (
            [{"role": "system", "content": "Be brief."}, USER, {"role": "system", "content": "Again."}],
            [SCHEMA],
            f"<|system|>Be brief.\n\n{TOOLS}<|end|><|user|>What is 6*7?<|end|><|system|>Again.<|end|>",
        ),
        (  # arguments as OpenAI's API has them, JSON text, and of python something else than an expression
            [
                {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": '{"q": 1}'}}]},
                {"role": "assistant", "tool_calls": [{"name": "python", "arguments": {"code": "1"}}]},
            ],
            [],
            '<|assistant|><|tool|>{"name": "look", "arguments": {"q": 1}}<|end|>'
            '<|assistant|><|tool|>{"name": "python", "arguments": {"code": "1"}}<|end|>',
        ),
        ([{"role": "user", "content": ""}], None, "<|user|><|end|>"),
    ],
)
def test_conversations_are_written_as_designed(tokenizer, messages, tools, rendered):
    assert tokenizer.apply_chat_template(messages, tools=tools, tokenize=False) == f"<|bos|>{rendered}"
    prompt = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    assert prompt == f"<|bos|>{rendered}<|assistant|>"
    ids = tokenizer.apply_chat_template(messages, tools=tools)["input_ids"]
    assert tokenizer.decode(ids) == f"<|bos|>{rendered}"


def test_a_tool_can_be_a_python_function(tokenizer):
    def look(q: str) -> str:
        """Look something up.

        Args:
            q: What to look up.
        """
        return q

    text = tokenizer.apply_chat_template([USER], tools=[look], tokenize=False)
    schema = json.loads(text.removeprefix("<|bos|><|system|>").partition("<|end|>")[0].splitlines()[1])
    assert schema["function"]["name"] == "look" and schema["function"]["parameters"]["required"] == ["q"]


def test_plain_jinja_renders_it_as_transformers_does(tokenizer):
    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation])
    messages = [USER, {"role": "assistant", "content": "<|bos|> \n", "tool_calls": [SUM]}]
    text = environment.from_string(CHAT_TEMPLATE).render(messages=messages, bos_token="<|bos|>")
    assert text == tokenizer.apply_chat_template(messages, tokenize=False)
    assert text.endswith("<|assistant|><| bos |> \n<|python|>6*7<|end|>")


def test_special_tokens_are_taken_apart_in_what_anyone_says_and_nothing_else_is_changed(tokenizer):
    said = "".join(f" {token} \n" for token in SPECIAL_TOKENS) + "<|endoftext|> <|END|> <| end |> {{ x }} <b>\t "
    expected = said
    for token in SPECIAL_TOKENS:
        expected = expected.replace(token, f"<| {token[2:-2]} |>")
    messages = [{"role": role, "content": said} for role in ("system", "user", "assistant", "tool")]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "<|bos|>" + "".join(f"<|{message['role']}|>{expected}<|end|>" for message in messages)


def test_a_tokenizer_with_special_tokens_of_its_own_has_them_taken_apart_too(gpt2_folder, tmp_path):
    load_tokenizer(gpt2_folder).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.chat_template == chat_template_for(["<|endoftext|>"]) != CHAT_TEMPLATE
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "a<|endoftext|>b<|end|>"}])["input_ids"]
    assert tokenizer.decode(ids) == "<|bos|><|user|>a<| endoftext |>b<| end |><|end|>"
    assert [i for i in ids if i in tokenizer.all_special_ids or i == 600] == [
        *tokenizer.convert_tokens_to_ids(["<|bos|>", "<|user|>", "<|end|>"])
    ]


def test_special_tokens_of_any_shape_can_be_taken_apart():
    odd = ["<s>", "</s>", "[PAD]", "EOS", "<|", "<|end|>x", "<｜begin▁of▁sentence｜>", '"\\', "{{", "%}"]
    tokenizer = train_tokenizer(["some text"], 265)
    tokenizer.add_special_tokens({"extra_special_tokens": odd})
    tokenizer.chat_template = chat_template_for(odd)
    special = set(tokenizer.convert_tokens_to_ids([*SPECIAL_TOKENS, *odd]))
    said = "".join(odd) + " ".join(odd) + "<|end|>xx<|end<|end|>|>"
    ids = tokenizer.apply_chat_template([{"role": "user", "content": said}])["input_ids"]
    assert [i for i in ids if i in special] == tokenizer.convert_tokens_to_ids(["<|bos|>", "<|user|>", "<|end|>"])
    assert tokenizer.decode(ids[2:-1]).replace(" ", "") == said.replace(" ", "")


PIECES = st.sampled_from(
    [*SPECIAL_TOKENS, "<|", "|>", "<", ">", "|", "end", "user", "bos", "assis", "tant", " ", "<|endoftext|>"]
)


@given(st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_no_text_ever_becomes_a_special_token(tokenizer, said):
    messages = [
        {"role": "system", "content": said},
        {"role": "user", "content": [{"type": "text", "text": said[:3]}, {"type": "text", "text": said[3:]}]},
        {
            "role": "assistant",
            "content": said,
            "tool_calls": [
                {"type": "function", "function": {"name": said, "arguments": {said: [said]}}},
                {"type": "function", "function": {"name": "python", "arguments": {"expression": said}}},
            ],
        },
        {"role": "tool", "name": "python", "content": said},
    ]
    text = tokenizer.apply_chat_template(messages, tools=[{"function": {"name": said}}], tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids)
    assert tokenizer.convert_ids_to_tokens([i for i in ids if i in special]) == [
        *("<|bos|>", "<|system|>", "<|end|>", "<|user|>", "<|end|>"),
        *("<|assistant|>", "<|tool|>", "<|python|>", "<|end|>", "<|output|>", "<|end|>"),
    ]


def test_the_packaged_template_is_that_of_our_own_tokens():
    assert chat_template_for([]) == chat_template_for(SPECIAL_TOKENS) == CHAT_TEMPLATE
