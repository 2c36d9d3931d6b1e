"""Documents of one source shard -> blocks of packed training rows and held-out documents: the step that preparing,
streaming and cluster preparation share. A block is a pure function of the shard and its first document."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice

import numpy as np

from hfgpt.data.documents import SourceShard
from hfgpt.data.packing import PackedRows, pack_documents
from hfgpt.data.splitting import is_validation

# Text handed to the encoder at once, characters: enough to keep its threads busy, little beside a block.
_BATCH_CHARACTERS = 2_000_000

Encode = Callable[[list[str]], list[np.ndarray]]


@dataclass(frozen=True)
class BlockSettings:
    """What decides, beside text and tokenizer, which rows a shard gives."""

    max_length: int
    shard_size: int  # training tokens in a block
    bos_token_id: int
    vocab_size: int
    min_document_chars: int
    validation_fraction: float
    validation_tokens: int
    max_train_rows: int | None = None  # a shard stops once it has given this many

    @property
    def token_type(self) -> np.dtype:
        return np.dtype(np.uint16 if self.vocab_size <= 2**16 else np.uint32)


@dataclass(frozen=True)
class HeldOutDocument:
    """A validation document: the hash of its text, its UTF-8 bytes and its tokens, without BOS."""

    content_hash: int
    text_bytes: int
    tokens: np.ndarray


@dataclass(frozen=True)
class Block:
    """Documents `first_document` to `end_document` - 1 of a shard: the training ones packed, the others held out."""

    first_document: int
    end_document: int
    is_last: bool
    train: PackedRows
    train_text_bytes: int
    held_out: list[HeldOutDocument]  # those of the smallest hash, up to validation_tokens
    held_out_documents: int  # all of them
    too_short: int
    left_out: Counter = field(default_factory=Counter)  # what the source left out, from the shard's start to here


@dataclass(frozen=True)
class _EncodedDocument:
    tokens: np.ndarray | None  # None if too short
    text_bytes: int = 0
    held_out_hash: int | None = None  # None for training documents


def shard_blocks(
    shard: SourceShard, encode: Encode, settings: BlockSettings, first_document: int = 0, rows_before: int = 0
) -> Iterator[Block]:
    """The blocks of `shard` from document `first_document` on, which must be where a block begins.

    `rows_before` training rows came from the blocks before it. The last block has `is_last` set and may be empty.
    """
    left_out: Counter = Counter()
    documents = islice(shard.documents(left_out), first_document, None)
    encoded = _encode_documents(documents, encode, settings)
    is_last = False
    while not is_last:
        room = settings.shard_size
        if settings.max_train_rows is not None:
            # One row more, as a block's last, incomplete row is dropped.
            room = min(room, (settings.max_train_rows - rows_before + 1) * settings.max_length)
        block = _next_block(encoded, settings, room, first_document, left_out)
        yield block
        rows_before += len(block.train.rows)
        is_last = block.is_last or (settings.max_train_rows is not None and rows_before >= settings.max_train_rows)
        first_document = block.end_document


def content_hash(text: str) -> int:
    """64-bit BLAKE2b of the UTF-8 text. Held-out documents of the smallest hashes are a fair sample of all of them,
    whatever their order, shard or machine."""
    return int.from_bytes(blake2b(utf8(text), digest_size=8).digest(), "big")


def utf8(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")


class HeldOutSample:
    """Of the held-out documents added, exact copies once, those of the smallest hashes that together hold `max_tokens`
    tokens, BOS included. Holds at most twice that many tokens at any time."""

    def __init__(self, max_tokens: int):
        self.max_tokens = max_tokens
        self._documents: dict[int, HeldOutDocument] = {}
        self._tokens = 0

    def add(self, document: HeldOutDocument) -> None:
        if document.content_hash not in self._documents:
            self._documents[document.content_hash] = document
            self._tokens += len(document.tokens) + 1
            if self._tokens > 2 * self.max_tokens:
                self._documents = {kept.content_hash: kept for kept in self.documents()}
                self._tokens = sum(len(kept.tokens) + 1 for kept in self._documents.values())

    def documents(self) -> list[HeldOutDocument]:
        """The sample, in the order of the hashes."""
        chosen: list[HeldOutDocument] = []
        tokens = 0
        for _, document in sorted(self._documents.items()):
            if tokens >= self.max_tokens:
                break
            chosen.append(document)
            tokens += len(document.tokens) + 1
        return chosen


def _next_block(
    encoded: Iterator[_EncodedDocument], settings: BlockSettings, room: int, first_document: int, left_out: Counter
) -> Block:
    train: list[np.ndarray] = []
    held_out = HeldOutSample(settings.validation_tokens)
    train_tokens = train_text_bytes = held_out_documents = too_short = count = 0
    while train_tokens < room:
        document = next(encoded, None)
        if document is None:
            break
        count += 1
        if document.tokens is None:
            too_short += 1
        elif document.held_out_hash is None:
            train.append(document.tokens)
            train_tokens += len(document.tokens) + 1
            train_text_bytes += document.text_bytes
        else:
            held_out_documents += 1
            held_out.add(HeldOutDocument(document.held_out_hash, document.text_bytes, document.tokens))
    return Block(
        first_document=first_document,
        end_document=first_document + count,
        is_last=train_tokens < room,
        train=pack_documents(train, settings.max_length, settings.bos_token_id),
        train_text_bytes=train_text_bytes,
        held_out=held_out.documents(),
        held_out_documents=held_out_documents,
        too_short=too_short,
        left_out=left_out.copy(),
    )


def _encode_documents(documents: Iterator[str], encode: Encode, settings: BlockSettings) -> Iterator[_EncodedDocument]:
    for texts in _batches(documents):
        long_enough = [len(text) >= settings.min_document_chars for text in texts]
        tokens = iter(encode([text for text, kept in zip(texts, long_enough, strict=True) if kept]))
        for text, kept in zip(texts, long_enough, strict=True):
            if not kept:
                yield _EncodedDocument(tokens=None)
                continue
            held_out = settings.validation_fraction > 0 and is_validation(text, settings.validation_fraction)
            yield _EncodedDocument(
                tokens=next(tokens).astype(settings.token_type, copy=False),
                text_bytes=len(text) if text.isascii() else len(utf8(text)),
                held_out_hash=content_hash(text) if held_out else None,
            )


def _batches(documents: Iterator[str]) -> Iterator[list[str]]:
    texts: list[str] = []
    characters = 0
    for text in documents:
        texts.append(text)
        characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            yield texts
            texts, characters = [], 0
    if texts:
        yield texts
