"""The same text through every local file format gives the same rows, and a small model learns it past bigrams."""

import csv
import gzip
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from commands import succeed
from datasets import load_from_disk

RECIPE = """
# A small model on a megabyte of text.
model: {depth: 2, hidden_size: 128, value_embeddings: false}
tokenizer: {vocab_size: 512}
data: {max_length: 128, validation_fraction: 0.1, min_document_chars: 2, num_proc: 1}
pretrain: {max_steps: 180, total_batch_size: 4096, per_device_train_batch_size: 32, eval_strategy: "no",
           sample_steps: 0, logging_steps: 50, warmup_steps: 10}
"""
FORMATS = ("txt", "jsonl", "json", "csv", "parquet", "txt.gz", "jsonl.zst", "csv.gz", "json.zst")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    (folder / "small.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def documents(shared_data) -> list[str]:
    """Stories and encyclopedia lines, as real corpora have them: quotes, commas, accents."""
    stories = (shared_data / "corpora" / "tinystories_val.first600k.txt").read_text(encoding="utf-8")
    lines = (shared_data / "corpora" / "wiki_demo.first24.txt").read_text(encoding="utf-8")
    texts = [line for line in stories.splitlines() if line.strip()] + [
        part for line in lines.splitlines() for part in line[:20_000].split(". ") if len(part) > 80
    ]
    return [text for text in texts if text == text.strip() and "\r" not in text]


def write(folder: Path, kind: str, documents: list[str]) -> Path:
    """The documents as one file of this format."""
    form, _, packing = kind.partition(".")
    plain = folder / f"text.{form}"
    if form == "txt":
        plain.write_text("\n".join(documents), encoding="utf-8")
    elif form == "jsonl":
        plain.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    elif form == "json":
        plain.write_text(json.dumps([{"id": n, "text": text} for n, text in enumerate(documents)]), encoding="utf-8")
    elif form == "csv":
        with plain.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["id", "text"], *enumerate(documents)])
    else:
        pq.write_table(pa.table({"text": documents}), plain, row_group_size=500)
    if not packing:
        return plain
    packed = folder / f"text.{kind}"
    compress = gzip.compress if packing == "gz" else zstandard.ZstdCompressor().compress
    packed.write_bytes(compress(plain.read_bytes()))
    return packed


def rows(root: Path) -> np.ndarray:
    (record,) = (root / "small" / "data").glob("*/prepared.json")
    return np.array(load_from_disk(str(record.parent / "train"))["input_ids"])


@pytest.fixture(scope="module")
def prepared(workplace, documents):
    """`hfgpt data prepare` on the documents in one format; returns the run's root. Made once a format."""
    made: dict[str, Path] = {}

    def prepare(kind: str) -> Path:
        if kind not in made:
            folder = workplace / kind
            folder.mkdir()
            path = write(folder, kind, documents)
            flags = ("--data_path", path, "--document_separator", "line", "--output_root", folder / "runs")
            succeed("hfgpt", "data", "prepare", workplace / "small.yaml", *flags)
            made[kind] = folder / "runs"
        return made[kind]

    return prepare


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS[1:])
def test_every_format_gives_the_same_rows(prepared, kind):
    assert np.array_equal(rows(prepared(kind)), rows(prepared("txt")))


@pytest.mark.slow
def test_a_small_model_learns_real_text_past_its_bigrams(prepared, workplace):
    root = prepared("txt")
    path = workplace / "txt" / "text.txt"
    flags = ("--data_path", path, "--document_separator", "line", "--output_root", root)
    succeed("hfgpt", "pretrain", workplace / "small.yaml", *flags)
    final = json.loads((root / "small" / "pretrain" / "final_metrics.json").read_text())
    entropy = bigram_entropy(rows(root))
    assert 2 < entropy < math.log(512)
    assert final["val_loss"] < entropy


def bigram_entropy(token_rows: np.ndarray) -> float:
    """H(next token | token) of the rows' own counts, nats: the loss of the best bigram model on its training text."""
    pairs = Counter(zip(token_rows[:, :-1].ravel().tolist(), token_rows[:, 1:].ravel().tolist(), strict=True))
    firsts: Counter = Counter()
    for (first, _), count in pairs.items():
        firsts[first] += count
    total = sum(pairs.values())
    return -sum(count / total * math.log(count / firsts[first]) for (first, _), count in pairs.items())
