"""Conversations put together into rows for SFT, and their collation: whole ones only, none seen by another."""

from dataclasses import dataclass

import torch
from datasets import Dataset
from trl import pack_dataset


@dataclass(frozen=True)
class PackedConversations:
    """Rows with `input_ids`, `labels` and `seq_lengths` (tokens of each conversation in the row)."""

    dataset: Dataset
    conversations: int
    tokens: int
    max_length: int

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def padding(self) -> float:
        """Share of the rows' places that hold no token."""
        return 1 - self.tokens / max(1, len(self.dataset) * self.max_length)


def pack_conversations(
    conversations: Dataset, max_length: int, packing: bool = True, max_rows: int | None = None
) -> PackedConversations:
    """Best-fit decreasing (TRL's pack_dataset) into rows of at most `max_length` tokens; without `packing` one
    conversation a row. `conversations` has `input_ids` and `labels`, none longer than a row."""
    if max_rows is not None:
        conversations = conversations.select(range(min(max_rows, len(conversations))))
    count = len(conversations)
    if packing and count:
        rows = pack_dataset(conversations, max_length, "bfd")
    else:
        rows = conversations.map(lambda row: {"seq_lengths": [len(row["input_ids"])]})
    tokens = sum(sum(lengths) for lengths in rows["seq_lengths"]) if count else 0
    return PackedConversations(rows, count, tokens, max_length)


class ConversationCollator:
    """Packed rows -> {"input_ids", "labels", "position_ids"}, int64 tensors of shape (batch, longest row).

    `position_ids` restart at each conversation, by which the model keeps attention inside it; padding at the end
    counts as one more, with labels -100. There is no attention mask.
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        shape = (len(rows), longest)
        input_ids = torch.full(shape, self.pad_token_id)
        labels = torch.full(shape, -100)
        position_ids = torch.zeros(shape, dtype=torch.int64)
        for number, row in enumerate(rows):
            length = len(row["input_ids"])
            input_ids[number, :length] = torch.tensor(row["input_ids"])
            labels[number, :length] = torch.tensor(row["labels"])
            pieces = [*row["seq_lengths"], longest - length]
            position_ids[number] = torch.cat([torch.arange(piece) for piece in pieces])
        return {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
