"""Labels token by token: what the assistant says and its end, nothing else, whatever the tokenizer."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from hfgpt.data.chat_tokens import check_template, marked_conversation, render, tokenize_conversation
from hfgpt.data.tokenizer import SPECIAL_TOKENS, load_tokenizer, train_tokenizer
from hfgpt.errors import UserError

WORDS = (
    "You are brief. How many cats? I see two cats. And dogs? Only one dog. Let me count: 6*7 42 is it. look name "
    "arguments q Tools that can be called, as JSON schemas: type function"
)
QUESTION = {"role": "user", "content": "How many cats?"}
SUM = {"type": "function", "function": {"name": "python", "arguments": {"expression": "6*7"}}}
LOOK = {"type": "function", "function": {"name": "look", "arguments": {"q": "cats"}}}
CHATML = (
    "{% for message in messages %}{{ '<|start|>' ~ message.role ~ '\\n' }}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content ~ eos_token }}{% endgeneration %}"
    "{% else %}{{ message.content ~ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
)


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    return train_tokenizer([WORDS] * 4, 365)


@pytest.fixture(scope="module")
def chatml() -> PreTrainedTokenizerFast:
    """Another's tokenizer, as GPT-2's: no BOS in its template, and leading spaces left out of tokens' offsets."""
    backend = train_tokenizer([WORDS] * 4, 365).backend_tokenizer
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|stop|>",
        extra_special_tokens=["<|start|>"],
        chat_template=CHATML,
    )


def said(role: str, content: str, *calls: dict) -> dict:
    return {"role": role, "content": content} | ({"tool_calls": list(calls)} if calls else {})


def learnt_text(tokenizer, row) -> str:
    return tokenizer.decode(row.labels[row.labels != -100])


def other_text(tokenizer, row) -> str:
    return tokenizer.decode(row.input_ids[row.labels == -100])


# Pieces of a conversation in their order, the learnt ones marked: tokens as the tokenizer calls them, Ġ being a space.
GOLDEN = {
    "two answers after a system turn": (
        {
            "messages": [
                said("system", "You are brief."),
                QUESTION,
                said("assistant", "I see two cats."),
                said("user", "And dogs?"),
                said("assistant", "Only one dog."),
            ]
        },
        [
            ("", "<|bos|> <|system|> You Ġare Ġbrief . <|end|> <|user|> Ho w Ġmany Ġcats ? <|end|> <|assistant|>"),
            ("learnt", "I Ġsee Ġtwo Ġcats . <|end|>"),
            ("", "<|user|> An d Ġdogs ? <|end|> <|assistant|>"),
            ("learnt", "On ly Ġone Ġdog . <|end|>"),
        ],
    ),
    "python and its output": (
        {
            "messages": [
                QUESTION,
                said("assistant", "Let me count: ", SUM),
                said("tool", "42") | {"name": "python"},
                said("assistant", "It is 42."),
            ]
        },
        [
            ("", "<|bos|> <|user|> Ho w Ġmany Ġcats ? <|end|> <|assistant|>"),
            ("learnt", "Le t Ġme Ġcount : Ġ <|python|> 6 * 7 <|end|>"),
            ("", "<|output|> 42 <|end|> <|assistant|>"),
            ("learnt", "I t Ġis Ġ 42 . <|end|>"),
        ],
    ),
    "a call and its result, with the tool's schema": (
        {
            "messages": [
                QUESTION,
                said("assistant", "", LOOK),
                said("tool", "two") | {"name": "look"},
                said("assistant", " two\n"),
            ],
            "tools": [{"type": "function", "function": {"name": "look"}}],
        },
        [
            (
                "",
                "<|bos|> <|system|> Too ls Ġthat Ġcan Ġbe Ġcalled , Ġas ĠJSON Ġschemas : Ċ "
                '{ " t ype " : Ġ " fu nction " , Ġ " fu nction " : Ġ { " name " : Ġ " loo k " } } <|end|> '
                "<|user|> Ho w Ġmany Ġcats ? <|end|> <|assistant|>",
            ),
            (
                "learnt",
                '<|tool|> { " name " : Ġ " loo k " , Ġ " a r gu ments " : Ġ { " q " : Ġ " c a ts " } } <|end|>',
            ),
            ("", "<|tool|> t wo <|end|> <|assistant|>"),
            ("learnt", "Ġtwo Ċ <|end|>"),
        ],
    ),
    "two answers in a row, the first of them empty, and a question at the end": (
        {
            "messages": [
                QUESTION,
                said("assistant", ""),
                said("assistant", "cats"),
                QUESTION,
            ]
        },
        [
            ("", "<|bos|> <|user|> Ho w Ġmany Ġcats ? <|end|> <|assistant|>"),
            ("learnt", "<|end|>"),
            ("", "<|assistant|>"),
            ("learnt", "c a ts <|end|>"),
        ],
    ),
    "characters of several tokens, at both ends": (
        {"messages": [said("user", "é"), said("assistant", "é世")]},
        [
            ("", "<|bos|> <|user|> Ã © <|end|> <|assistant|>"),
            ("learnt", "Ã © ä ¸ ĸ <|end|>"),
        ],
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_what_is_learnt_token_by_token(words, name):
    conversation, pieces = GOLDEN[name]
    row = tokenize_conversation(words, conversation, 1000)
    assert row is not None and not row.truncated
    tokens = [(token, mark) for mark, text in pieces for token in text.split(" ")]
    found = words.convert_ids_to_tokens(row.input_ids.tolist())
    assert list(zip(found, np.where(row.labels != -100, "learnt", ""), strict=True)) == tokens
    assert row.supervised_tokens == sum(mark == "learnt" for _, mark in tokens)
    assert row.input_ids.dtype == row.labels.dtype == np.int32


def test_labels_are_where_transformers_puts_its_own_mask(words):
    for conversation, _ in GOLDEN.values():
        encoded = words.apply_chat_template(
            conversation["messages"], tools=conversation.get("tools"), return_assistant_tokens_mask=True
        )
        row = tokenize_conversation(words, conversation, 1000)
        length = len(row.input_ids)  # what follows the last answer is left out
        assert encoded["input_ids"][:length] == row.input_ids.tolist()
        assert encoded["assistant_masks"] == [*(row.labels != -100), *[0] * (len(encoded["input_ids"]) - length)]


def test_rows_are_cut_after_the_last_answer_that_fits(words):
    conversation, pieces = GOLDEN["two answers after a system turn"]
    lengths = np.cumsum([len(text.split(" ")) for _, text in pieces])
    whole = tokenize_conversation(words, conversation, 1000)
    for max_length in range(1, 40):
        row = tokenize_conversation(words, conversation, max_length)
        if max_length < lengths[1]:
            assert row is None
        else:
            length = lengths[3] if max_length >= lengths[3] else lengths[1]
            assert row.truncated == (max_length < lengths[3])
            assert row.input_ids.tolist() == whole.input_ids[:length].tolist()
            assert row.labels.tolist() == whole.labels[:length].tolist()


def test_a_conversation_without_an_answer_gives_no_row(words):
    assert tokenize_conversation(words, {"messages": [QUESTION], "tools": None}, 1000) is None


TEXT = st.text(st.sampled_from("ab .,\n\t<|>é世🌍\u0301\u200d") | st.characters(codec="utf-8"), max_size=12)
SPOKEN = TEXT | st.sampled_from([*SPECIAL_TOKENS, "<|endoftext|>", " ", "\n", ""])
TURN = st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.lists(SPOKEN, max_size=3).map("".join))


def taken_apart(text: str, tokenizer) -> str:
    for token in tokenizer.added_tokens_encoder:
        text = text.replace(token, f"<| {token[2:-2]} |>")
    return text


@pytest.mark.parametrize("kind", ["ours", "gpt2"])
@given(st.lists(TURN, min_size=1, max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
def test_answers_and_their_ends_are_learnt_and_nothing_else(words, gpt2_chat, kind, turns):
    tokenizer = {"ours": words, "gpt2": gpt2_chat}[kind]
    messages = [said(role, content) for role, content in turns]
    row = tokenize_conversation(tokenizer, {"messages": messages, "tools": None}, 10_000)
    last = max((n for n, (role, _) in enumerate(turns) if role == "assistant"), default=None)
    if last is None:
        assert row is None
        return
    bos, end = tokenizer.convert_tokens_to_ids(["<|bos|>", "<|end|>"])
    ids = row.input_ids.tolist()
    assert ids[0] == bos and ids.count(bos) == 1 and not row.truncated
    assert ids.count(end) == last + 1
    assert [i for i in ids if i in tokenizer.added_tokens_decoder] == [
        bos,
        *(i for role, _ in turns[: last + 1] for i in (tokenizer.convert_tokens_to_ids(f"<|{role}|>"), end)),
    ]
    answers = [taken_apart(content, tokenizer) + "<|end|>" for role, content in turns if role == "assistant"]
    assert learnt_text(tokenizer, row) == "".join(answers)
    rest = [
        f"<|{role}|>" + (taken_apart(content, tokenizer) + "<|end|>") * (role != "assistant")
        for role, content in turns
    ]
    assert other_text(tokenizer, row) == "<|bos|>" + "".join(rest[: last + 1])


@pytest.fixture(scope="module")
def gpt2_chat(gpt2_folder) -> PreTrainedTokenizerFast:
    return load_tokenizer(gpt2_folder)


@pytest.mark.parametrize("answer", ["two cats.", "  two", " ", "two \n", "\n\n", "é世", " é", ""])
def test_another_tokenizer_and_template_are_labelled_right_where_offsets_leave_spaces_out(chatml, answer):
    messages = [QUESTION, said("assistant", answer), said("user", " And dogs? "), said("assistant", answer)]
    row = tokenize_conversation(chatml, {"messages": messages, "tools": None}, 1000)
    assert learnt_text(chatml, row) == f"{answer}<|stop|>" * 2
    assert other_text(chatml, row) == (
        "<|start|>user\nHow many cats?<|stop|>\n<|start|>assistant\n\n<|start|>user\n And dogs? <|stop|>\n"
        "<|start|>assistant\n"
    )


def test_templates_that_mark_the_answers_pass_the_check(words, gpt2_chat, chatml):
    for tokenizer in (words, gpt2_chat, chatml):
        check_template(tokenizer)


MARKED = "{% generation %}{{ message.content ~ eos_token }}{% endgeneration %}"
BROKEN_TEMPLATES = {
    "does not mark what the assistant says": CHATML.replace(MARKED, "{{ message.content ~ eos_token }}"),
    "do not hold what the assistant says \\(they hold \\['', ''\\]\\)": CHATML.replace(
        MARKED, "{{ message.content ~ eos_token }}{% generation %}{% endgeneration %}"
    ),
    "do not hold what the assistant says": CHATML.replace("{% if message.role == 'assistant' %}", "{% if true %}"),
    # joined to other text, so that transformers counts from a wrong place
    "do not hold .*: put them around the assistant's content, outside of macros": (
        "{% macro marked(message) %}" + MARKED + "{% endmacro %}"
    )
    + CHATML.replace("{{ '<|start|>' ~ message.role ~ '\\n' }}", "").replace(
        MARKED, "{{ '<|start|>a long name for the assistant\\n' ~ marked(message) }}"
    ),
    "hold the user's turns too": CHATML.replace(
        MARKED, MARKED.replace("message.content", "messages[0].content ~ message.content ~ messages[2].content")
    ),
    "leave out the end token": CHATML.replace(MARKED, MARKED.replace(" ~ eos_token", "") + "{{ eos_token }}"),
    "more than once": "{{ bos_token ~ bos_token }}" + CHATML,
}


@pytest.mark.parametrize("complaint", BROKEN_TEMPLATES)
def test_templates_whose_marks_are_wrong_are_refused_in_one_sentence(chatml, complaint):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=chatml.backend_tokenizer,
        bos_token="<|bos|>",
        eos_token="<|stop|>",
        chat_template=BROKEN_TEMPLATES[complaint],
    )
    with pytest.raises(UserError, match=complaint) as raised:
        check_template(tokenizer)
    assert "\n" not in str(raised.value)


def test_a_tokenizer_without_template_is_refused(chatml):
    bare = PreTrainedTokenizerFast(tokenizer_object=chatml.backend_tokenizer, eos_token="<|stop|>")
    with pytest.raises(UserError, match="does not mark what the assistant says"):
        render(bare, {"messages": [QUESTION], "tools": None})


def test_the_marked_conversation_reads_without_colours(words):
    conversation = {
        "messages": [QUESTION, said("assistant", "Let me count: ", SUM), said("tool", "42") | {"name": "python"}]
        + [said("assistant", "It is\n42.")]
    }
    row = tokenize_conversation(words, conversation, 1000)
    text = marked_conversation(words, row.input_ids.tolist(), row.labels.tolist())
    assert text.plain == (
        "<|bos|><|user|>How many cats?<|end|>\n"
        "<|assistant|>⟦Let me count: <|python|>6*7<|end|>⟧\n"
        "<|output|>42<|end|>\n"
        "<|assistant|>⟦It is\n42.<|end|>⟧\n"
    )
    console = Console(color_system="standard", force_terminal=True, width=200)
    with console.capture() as capture:
        console.print(text)
    assert "\x1b[1;32m⟦It is" in capture.get()
