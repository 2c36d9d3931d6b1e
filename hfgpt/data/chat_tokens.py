"""A conversation as tokens and labels: rendered by the tokenizer's chat template, supervised where its generation
marks say so, cut where a turn ends. Nothing here reads or writes a file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.text import Text

from hfgpt.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORED = -100  # label of a token without loss, torch's and HF's default
GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class RenderedConversation:
    """The text of a conversation as the template writes it, and the spans of it, in characters, that are learnt."""

    text: str
    supervised: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class TokenizedConversation:
    """`input_ids` and `labels`, int32 of shape (tokens,): a label is the token itself where it is learnt, -100
    elsewhere; the model shifts them. `truncated` tells that answers after the last one here did not fit."""

    input_ids: np.ndarray
    labels: np.ndarray
    truncated: bool

    @property
    def supervised_tokens(self) -> int:
        return int(np.count_nonzero(self.labels != IGNORED))


def render(tokenizer: "PreTrainedTokenizerFast", conversation: dict[str, Any]) -> RenderedConversation:
    """The conversation in the tokenizer's chat template. Raises UserError if the template does not mark answers."""
    from transformers.utils.chat_template_utils import render_jinja_template

    template = tokenizer.chat_template
    if not isinstance(template, str) or not GENERATION_MARK.search(template):
        raise UserError(
            f"The chat template of {tokenizer.name_or_path or 'the tokenizer'} does not mark what the assistant says "
            "({% generation %} ... {% endgeneration %}), so no loss can be restricted to it: mark it in the template, "
            "or set tokenizer.add_chat_tokens: true for hfgpt's own."
        )
    special_tokens: dict[str, Any] = tokenizer.special_tokens_map
    rendered: Any = render_jinja_template(  # annotated as text, but returns texts and their spans
        conversations=[conversation["messages"]],
        tools=conversation.get("tools"),
        chat_template=template,
        return_assistant_tokens_mask=True,
        **special_tokens,
    )
    (text,), (supervised,) = rendered
    return RenderedConversation(text, supervised)


def tokenize_conversation(
    tokenizer: "PreTrainedTokenizerFast", conversation: dict[str, Any], max_length: int
) -> TokenizedConversation | None:
    """The conversation up to the end of its last answer that fits into `max_length` tokens; None if none fits or none
    is there. Raises UserError as `render` does."""
    return tokenize_rendered(tokenizer, [render(tokenizer, conversation)], max_length)[0]


def tokenize_rendered(
    tokenizer: "PreTrainedTokenizerFast", rendered: Sequence[RenderedConversation], max_length: int
) -> list[TokenizedConversation | None]:
    """As `tokenize_conversation`, many at once."""
    encoded = tokenizer(
        [conversation.text for conversation in rendered],
        add_special_tokens=False,  # the template writes BOS itself
        return_attention_mask=False,
        return_offsets_mapping=True,
        verbose=False,  # texts longer than the model are cut below
    )
    return [
        _labelled(np.array(ids, dtype=np.int32), np.array(offsets).reshape(-1, 2), one.supervised, max_length)
        for ids, offsets, one in zip(encoded["input_ids"], encoded["offset_mapping"], rendered, strict=True)
    ]


def _labelled(
    input_ids: np.ndarray, offsets: np.ndarray, supervised: Sequence[tuple[int, int]], max_length: int
) -> TokenizedConversation | None:
    """Labels from the tokens' places in the text, `offsets` of shape (tokens, 2)."""
    labels = np.full_like(input_ids, IGNORED)
    length = answers = 0
    for start, end in supervised:
        first, last = _tokens_of(offsets, start, end)
        if last > max_length:
            break
        labels[first:last] = input_ids[first:last]
        length, answers = last, answers + 1
    if not answers:
        return None
    return TokenizedConversation(input_ids[:length], labels[:length], truncated=answers < len(supervised))


def _tokens_of(offsets: np.ndarray, start: int, end: int) -> tuple[int, int]:
    """First token of the characters start ... end - 1 and the one after the last. A character of several tokens gives
    each its place; GPT-2's post-processor takes leading spaces away from a token's place, which may leave it empty
    and at its end: so a token belongs here if it ends after `start`, and ends, or at least begins, before `end`."""
    begins, ends = offsets[:, 0], offsets[:, 1]
    inside = np.flatnonzero((ends > start) & ((ends <= end) | (begins < end)))
    return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)


def check_template(tokenizer: "PreTrainedTokenizerFast") -> None:
    """Raises UserError unless the tokenizer's chat template marks exactly what the assistant says, its end token
    included, for learning, and starts with one BOS at most."""
    questions, answers = ("What is first?", "And then?"), ("This comes first.", "That is second.")
    turns = zip(questions, answers, strict=True)
    pairs = ([{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in turns)
    conversation = {"messages": [message for pair in pairs for message in pair], "tools": None}
    rendered = render(tokenizer, conversation)
    learnt = [rendered.text[start:end] for start, end in rendered.supervised]
    name = tokenizer.name_or_path or "the tokenizer"
    if len(learnt) != 2 or any(a not in one for a, one in zip(answers, learnt, strict=True)):
        raise UserError(
            f"The generation marks in the chat template of {name} do not hold what the assistant says (they hold "
            f"{learnt}): put them around the assistant's content, outside of macros."
        )
    if any(question in one for question, one in zip(questions, learnt, strict=True)):
        raise UserError(f"The generation marks in the chat template of {name} hold the user's turns too: move them.")
    if not all(one.rstrip().endswith(str(tokenizer.eos_token)) for one in learnt):
        raise UserError(
            f"The generation marks in the chat template of {name} leave out the end token {tokenizer.eos_token}, so "
            "answers would never learn to stop: put it inside the marks, or set it as the tokenizer's eos_token."
        )
    if tokenizer.bos_token and rendered.text.count(str(tokenizer.bos_token)) > 1:
        raise UserError(f"The chat template of {name} writes {tokenizer.bos_token} more than once: write it once.")


def marked_conversation(tokenizer: "PreTrainedTokenizerFast", input_ids: Sequence[int], labels: Sequence[int]) -> Text:
    """The conversation as it is trained on, special tokens included, a line a turn; what is learnt stands in ⟦ ⟧ and,
    where there are colours, in bold green."""
    ids, learnt = np.asarray(input_ids), np.asarray(labels) != IGNORED
    borders = np.flatnonzero(np.diff(learnt)) + 1
    end = str(tokenizer.eos_token)
    text = Text()
    for piece, is_learnt in zip(np.split(ids, borders), np.split(learnt, borders), strict=True):
        decoded = str(tokenizer.decode(piece, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        if not is_learnt.any():
            text.append(decoded.replace(end, f"{end}\n"), style="dim")
        else:
            text.append(f"⟦{decoded}⟧", style="bold green")
            text.append("\n" if decoded.endswith(end) else "")
    return text
