"""Plain text to token ids, in bulk: the ids of the tokenizer's own folder, by tiktoken where tiktoken can say that
tokenizer, by tokenizers itself where not. It never adds BOS, and special tokens spelled out in text stay text."""

import json
import logging
import os
import random
import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from hfgpt.data.bpe_translation import NotExpressible, TiktokenForm, tiktoken_form
from hfgpt.data.tokenizer import GENERIC_CLASSES, load_tokenizer, well_formed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

CHECK_EVERY = 256  # documents; the check costs under 2% of the time at that rate
CHECKED_CHARACTERS = 10_000


class BulkEncoder:
    """Encodes documents to the ids of `tokenizer(text, add_special_tokens=False, split_special_tokens=True)`.

    The reference is that call: special tokens are not looked for in the text, while added tokens that are not special
    are. tiktoken does the work (`engine == "tiktoken"`) if the tokenizer is a byte-level BPE that it can express and
    a probe over the scripts of Unicode comes out equal; else tokenizers does (`engine == "tokenizers"`, the reason
    logged once). Documents that tiktoken cannot take (a megabyte of spaces) go the reference's way one by one, and
    every 256th is encoded both ways: a difference raises RuntimeError. Lone surrogates are read as U+FFFD.

    `num_threads` is for tiktoken; tokenizers goes by TOKENIZERS_PARALLELISM and RAYON_NUM_THREADS. Pickled, it takes
    along what it found, so that worker processes start at once.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast | Tokenizer | str | Path", num_threads: int = 1):
        self.num_threads = num_threads
        self._tokenizer_json = _backend(tokenizer).to_str()
        self._form: TiktokenForm | None = None
        self._start_reference()
        try:
            self._form = tiktoken_form(self._reference)
            self._start_tiktoken(self._form)
            self._probe()
        except (ValueError, RuntimeError) as reason:
            logger.warning("Bulk encoding uses tokenizers, which is slower; tiktoken cannot take over: %s.", reason)
            self._form = None

    @property
    def engine(self) -> str:
        """`tiktoken` or `tokenizers`."""
        return "tokenizers" if self._form is None else "tiktoken"

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """One uint32 array of ids a text."""
        if self._form is None:
            return self._encode_by_reference(texts)
        if self.num_threads == 1 or len(texts) == 1:
            encoded = [self._encode_one(text) for text in texts]
        else:
            slices = _slices_of_like_size(texts, 8 * self.num_threads)
            encodings = self._threads().map(lambda part: [self._encode_one(text) for text in part], slices)
            encoded = [ids for part in encodings for ids in part]
        for text in texts[-self._encoded_texts % CHECK_EVERY :: CHECK_EVERY]:
            self._compare(text[:CHECKED_CHARACTERS])
        self._encoded_texts += len(texts)
        return encoded

    def _start_reference(self) -> None:
        self._encoded_texts = 0
        self._pool: ThreadPoolExecutor | None = None
        self._pool_process = 0
        self._reference = Tokenizer.from_str(self._tokenizer_json)
        self._reference.encode_special_tokens = True
        self._reference.no_truncation()
        self._reference.no_padding()

    def _start_tiktoken(self, form: TiktokenForm) -> None:
        from tiktoken._tiktoken import CoreBPE

        # encode_to_tiktoken_buffer returns ids without a Python object each, and an error where encode_ordinary
        # panics; it looks for special tokens, so it gets one, which is never allowed.
        ranks = {token: rank for rank, token in enumerate(form.tokens)}
        self._core = CoreBPE(ranks, {"\0hfgpt: no special token\0": len(ranks)}, form.pattern)
        self._byte_lengths = np.array([len(token) for token in form.tokens])
        self._ids = form.ids
        added = [
            re.escape(token.content)
            for token in self._reference.get_added_tokens_decoder().values()
            if not token.special
        ]
        self._added_tokens = re.compile("|".join(added)) if added else None

    def _encode_one(self, text: str) -> np.ndarray:
        ids = self._encode_by_tiktoken(text)
        return self._encode_by_reference([text])[0] if ids is None else ids

    def _encode_by_tiktoken(self, text: str) -> np.ndarray | None:
        """The ids, or None for a text that tiktoken cannot take."""
        if self._added_tokens is not None and self._added_tokens.search(text):
            return None
        try:
            ranks = np.frombuffer(self._core.encode_to_tiktoken_buffer(text, set()), dtype=np.uint32)
        except ValueError:  # a lone surrogate, or a run of spaces too long for tiktoken's regular expressions
            return None
        # tiktoken drops what the pattern does not match, which tokenizers keeps.
        if self._byte_lengths[ranks].sum() != (len(text) if text.isascii() else len(text.encode())):
            return None
        return self._ids[ranks]

    def _encode_by_reference(self, texts: list[str]) -> list[np.ndarray]:
        encodings = self._reference.encode_batch_fast([well_formed(text) for text in texts], add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def _probe(self) -> None:
        """Hold tiktoken against the reference before it is relied on."""
        probe = _probe_text()
        for text in [probe] if self._added_tokens is None else self._added_tokens.split(probe):
            if self._encode_by_tiktoken(text) is None:
                raise NotExpressible("its split pattern, which leaves characters out")
            self._compare(text)

    def _compare(self, text: str) -> None:
        expected, given = self._encode_by_reference([text])[0], self._encode_one(text)
        if not np.array_equal(expected, given):
            length = min(len(expected), len(given))
            first = int(np.append(expected[:length] != given[:length], True).argmax())
            near = self._reference.decode(expected[max(first - 8, 0) : first + 8].tolist(), skip_special_tokens=False)
            raise RuntimeError(
                f"tiktoken gave other ids than tokenizers near {near!r}: nothing encoded in this run can be relied "
                "on; please report it with that text and the tokenizer"
            )

    def _threads(self) -> ThreadPoolExecutor:
        # Kept between calls: each new thread warms up tiktoken's regular expressions. A forked child has no threads.
        if self._pool is None or self._pool_process != os.getpid():
            self._pool, self._pool_process = ThreadPoolExecutor(self.num_threads), os.getpid()
        return self._pool

    def __getstate__(self) -> dict:
        return {"num_threads": self.num_threads, "_tokenizer_json": self._tokenizer_json, "_form": self._form}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start_reference()
        if self._form is not None:
            self._start_tiktoken(self._form)


def _backend(tokenizer: "PreTrainedTokenizerFast | Tokenizer | str | Path") -> Tokenizer:
    """The tokenizers object; a folder whose class says that tokenizer.json is all is read without transformers."""
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    if not isinstance(tokenizer, str | Path):
        return tokenizer.backend_tokenizer
    config, backend = Path(tokenizer, "tokenizer_config.json"), Path(tokenizer, "tokenizer.json")
    if config.is_file() and backend.is_file():
        tokenizer_class = json.loads(config.read_text(encoding="utf-8")).get("tokenizer_class")
        if tokenizer_class in GENERIC_CLASSES:
            return Tokenizer.from_file(str(backend))
    return load_tokenizer(tokenizer, add_chat_tokens=False).backend_tokenizer


def _slices_of_like_size(texts: list[str], count: int) -> list[list[str]]:
    """`texts` in at most `count + 1` consecutive slices of about the same number of characters."""
    limit = sum(map(len, texts)) / count
    slices: list[list[str]] = [[]]
    size = 0
    for text in texts:
        if size >= limit:
            slices.append([])
            size = 0
        slices[-1].append(text)
        size += len(text)
    return slices


def _probe_text() -> str:
    """Text that shows the ways in which two engines could differ: the edges of Unicode's categories and some of each
    block, case folding in contractions, runs of white space, digits, signs, marks, special tokens spelled out."""
    categories = [unicodedata.category(chr(point)) for point in range(0x20000)]
    edges = [i for i in range(1, len(categories)) if categories[i] != categories[i - 1]]
    points = sorted(
        {*range(0x250), *edges, *(i - 1 for i in edges), *range(0, 0x20000, 64), 0x2A700, 0x31350, 0x10FFFF}
    )
    characters = [chr(point) for point in points if not 0xD800 <= point < 0xE000]
    pieces = ["".join(characters), " ".join(characters), "'".join(characters)]
    words = ["", "I", "don", "ab12", "\u00e9", "e\u0301", "世界", "привет", "हिन्दी", "👩\u200d👧", "<|bos|>"]
    tails = ["", "'s", "'S", "'\u017f", "'t", "'re", "'RE", "'Ve", "'m", "'LL", "'d", "'x", "\u2019s", "''s"]
    spaces = [" ", "  ", "   ", "\t", " \t", "\n", "\r\n", "\n\n", " \n ", "\xa0", "\u2028 ", "\u3000", "\x85 "]
    signs = ["", "1", "12", "123", "1234", "٣٤٥", "½", ".", "...", "=" * 90, "{};\n", "\0", "\ufeff", "\u200b"]
    draw = random.Random(0).choice
    pieces += [draw(words) + draw(tails) + draw(spaces) + draw(signs) for _ in range(5000)]
    return "".join(pieces)
