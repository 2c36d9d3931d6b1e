"""Conversations as documents to be packed like text: each rendered by the chat template, its special tokens kept."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from hfgpt.arguments import DataArguments
from hfgpt.data.documents import SourceShard
from hfgpt.data.tokenizer import well_formed
from hfgpt.errors import UserError

if TYPE_CHECKING:
    from hfgpt.data.chat_rows import ConversationShard


@dataclass(frozen=True)
class RenderedConversations(SourceShard):
    """The conversations of one shard as text, without the BOS that packing adds."""

    shard: "ConversationShard"
    tokenizer_folder: Path

    def documents(self, counts: Counter | None = None) -> Iterator[str]:
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast.from_pretrained(self.tokenizer_folder)
        for conversation in self.shard.conversations(counts):
            text = tokenizer.apply_chat_template(
                conversation["messages"], tools=conversation.get("tools"), tokenize=False
            )
            yield well_formed(text).removeprefix(tokenizer.bos_token)

    def fingerprint(self) -> str:
        template = _chat_template(self.tokenizer_folder)
        return f"{self.shard.fingerprint()}-{blake2b(template.encode(), digest_size=8).hexdigest()}"


def chat_document_shards(data: DataArguments, tokenizer_folder: Path) -> list[SourceShard]:
    """The conversations that section `data` names, as documents. Raises UserError where the tokenizer has no chat
    template."""
    from hfgpt.data.chat_rows import conversation_shards

    if not _chat_template(tokenizer_folder):
        raise UserError(f"the tokenizer in {tokenizer_folder} has no chat template: set tokenizer.add_chat_tokens.")
    return [
        RenderedConversations(shard.name, shard=shard, tokenizer_folder=tokenizer_folder)
        for shard in conversation_shards(data)
    ]


class ChatEncoder:
    """Encodes rendered conversations, in which special tokens are special; the counterpart of BulkEncoder.

    `num_threads` is there for the likeness only: tokenizers goes by RAYON_NUM_THREADS.
    """

    def __init__(self, tokenizer_folder: Path, num_threads: int = 1):
        self.num_threads = num_threads
        self._json = (tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8")
        self._tokenizer = Tokenizer.from_str(self._json)

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """One uint32 array of ids a text."""
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encoded]

    def __getstate__(self) -> dict:
        return {"num_threads": self.num_threads, "_json": self._json}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._tokenizer = Tokenizer.from_str(self._json)


def _chat_template(tokenizer_folder: Path) -> str:
    """The template as saved beside tokenizer.json: a file of its own, or in tokenizer_config.json."""
    file = tokenizer_folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    settings = json.loads((tokenizer_folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return settings.get("chat_template") or ""
