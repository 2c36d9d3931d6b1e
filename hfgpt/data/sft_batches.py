"""Canonical conversations -> rows of tokens and labels and a count of what became of them: the step that one process
does for one batch."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import jinja2

from hfgpt.data.chat_tokens import RenderedConversation, TokenizedConversation, render, tokenize_rendered
from hfgpt.data.splitting import is_validation
from hfgpt.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPLITS = ("train", "validation")


@dataclass
class SftCounts:
    """What became of the conversations of one source; `tokens` and `supervised_tokens` are those in rows."""

    conversations: int = 0
    rows: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    truncated: int = 0  # rows that lost answers, but not all
    unanswered: int = 0  # rows without the turns at their end, which no assistant answers
    too_long: int = 0  # conversations whose first answer ends beyond max_length: dropped
    without_answer: int = 0  # conversations in which no assistant speaks: dropped
    left_out: dict[str, int] = field(default_factory=dict)  # rows that hold no conversation, by reason

    def __add__(self, other: "SftCounts") -> "SftCounts":
        mine, others = asdict(self), asdict(other)
        left_out = dict(Counter(mine.pop("left_out")) + Counter(others.pop("left_out")))
        return SftCounts(**{name: mine[name] + others[name] for name in mine}, left_out=left_out)

    def summary(self) -> str:
        """One paragraph: conversations, tokens, the share of them that is learnt, and what was lost and why."""
        dropped = {"that lost all answers to truncation": self.too_long, "without an answer": self.without_answer}
        dropped |= {name.removeprefix("rows_").replace("_", " "): number for name, number in self.left_out.items()}
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in dropped.items() if number)
        return (
            f"{self.conversations:,} conversations -> {self.rows:,} rows, {self.tokens:,} tokens, "
            f"{self.supervised_tokens:,} of them supervised ({self.supervised_tokens / max(self.tokens, 1):.1%}); "
            f"{self.truncated:,} truncated after a turn, {self.unanswered:,} after their last answer; "
            + (f"left out: {reasons}" if reasons else "none left out")
        )


@dataclass(frozen=True)
class SftSettings:
    """What decides, beside conversation and tokenizer, which row it gives."""

    max_length: int
    validation_fraction: float


@dataclass
class LabelledBatch:
    """Rows of some conversations, by split, and what became of them."""

    rows: dict[str, list[TokenizedConversation]]
    counts: SftCounts


def label_batch(
    tokenizer: "PreTrainedTokenizerFast", settings: SftSettings, conversations: Iterable[dict]
) -> LabelledBatch:
    """The rows of some canonical conversations."""
    batch = LabelledBatch({split: [] for split in SPLITS}, SftCounts())
    rendered = [_rendered(tokenizer, conversation) for conversation in conversations]
    for one, row in zip(rendered, tokenize_rendered(tokenizer, rendered, settings.max_length), strict=True):
        batch.counts.conversations += 1
        if row is None:
            batch.counts.too_long += bool(one.supervised)
            batch.counts.without_answer += not one.supervised
            continue
        batch.counts.rows += 1
        batch.counts.tokens += len(row.input_ids)
        batch.counts.supervised_tokens += row.supervised_tokens
        batch.counts.truncated += row.truncated
        batch.counts.unanswered += not row.truncated and one.text[one.supervised[-1][1] :].strip() != ""
        # Without BOS, which packing puts before a document: midtraining holds out the same conversations.
        text = one.text.removeprefix(tokenizer.bos_token or "")
        held_out = settings.validation_fraction > 0 and is_validation(text, settings.validation_fraction)
        batch.rows["validation" if held_out else "train"].append(row)
    return batch


def _rendered(tokenizer: "PreTrainedTokenizerFast", conversation: dict[str, Any]) -> RenderedConversation:
    try:
        return render(tokenizer, conversation)
    except jinja2.TemplateError as error:  # another's template may not know tools, or want turns to alternate
        start = conversation["messages"][0]["content"][:60]
        raise UserError(
            f"The chat template of {tokenizer.name_or_path or 'the tokenizer'} refuses the conversation that starts "
            f"with {start!r} ({error}): remove it, or use a template that can hold it."
        ) from error
