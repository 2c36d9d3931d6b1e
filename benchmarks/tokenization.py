"""Bulk encoding against tokenizers' `encode_batch_fast`, on one thread and on two, in one run.

    python benchmarks/tokenization.py --text FILE... [--vocab_size 16384] [--repeats 5]

Trains a tokenizer on the text, cuts the text into documents, and encodes all of them with both, taking turns; the
best of the repeats counts, as it is the one that other work on the machine disturbed least. Ids must be equal.
Prints the table and writes it to benchmarks/tokenization.md.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from hfgpt.data.bulk_encoding import BulkEncoder
from hfgpt.data.tokenizer import train_tokenizer

THREADS = (1, 2)
DOCUMENT_CHARACTERS = 3000  # about the mean document of FineWeb-Edu


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", nargs="+", type=Path, required=True, help="Text files, read as UTF-8.")
    parser.add_argument("--vocab_size", type=int, default=16384, help="Vocabulary of the tokenizer trained on them.")
    parser.add_argument("--repeats", type=int, default=5, help="Runs of each encoder; the best one counts.")
    return parser.parse_args()


def seconds(encode: Callable[[], list]) -> float:
    start = time.perf_counter()
    encode()
    return time.perf_counter() - start


def main() -> None:
    arguments = parse_arguments()
    load = os.getloadavg()[0]
    os.environ["RAYON_NUM_THREADS"] = str(max(THREADS))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in arguments.text]
    documents = [
        text[start : start + DOCUMENT_CHARACTERS]
        for text in texts
        for start in range(0, len(text), DOCUMENT_CHARACTERS)
    ]
    megabytes = sum(len(document.encode()) for document in documents) / 1e6

    start = time.perf_counter()
    tokenizer = train_tokenizer(texts, arguments.vocab_size)
    training = time.perf_counter() - start
    reference = tokenizer.backend_tokenizer
    reference.encode_special_tokens = True
    start = time.perf_counter()
    encoders = {threads: BulkEncoder(tokenizer, num_threads=threads) for threads in THREADS}
    construction = (time.perf_counter() - start) / len(THREADS)

    def by_tokenizers() -> list:
        return reference.encode_batch_fast(documents, add_special_tokens=False)

    expected = [np.array(encoding.ids, dtype=np.uint32) for encoding in by_tokenizers()]
    for encoder in encoders.values():
        assert encoder.engine == "tiktoken"
        assert all(map(np.array_equal, encoder.encode(documents), expected))

    best = {(name, threads): float("inf") for name in ("tokenizers", "hfgpt") for threads in THREADS}
    for _ in range(arguments.repeats):
        for threads in THREADS:
            os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
            best["tokenizers", threads] = min(best["tokenizers", threads], seconds(by_tokenizers))
            encode = encoders[threads].encode
            best["hfgpt", threads] = min(best["hfgpt", threads], seconds(lambda encode=encode: encode(documents)))

    tokens = sum(map(len, expected))
    rows = "\n".join(
        f"| {threads} | {megabytes / best['tokenizers', threads]:.1f} | {megabytes / best['hfgpt', threads]:.1f} "
        f"| {best['tokenizers', threads] / best['hfgpt', threads]:.1f}x |"
        for threads in THREADS
    )
    packages = ", ".join(f"{package} {version(package)}" for package in ("tokenizers", "tiktoken", "transformers"))
    report = f"""# Bulk encoding

`{Path(__file__).relative_to(Path(__file__).parents[1])}` over {len(texts)} texts: {megabytes:.1f} MB in \
{len(documents):,} documents of at most {DOCUMENT_CHARACTERS:,} characters, vocabulary {len(tokenizer):,}, \
{tokens:,} tokens ({megabytes * 1e6 / tokens:.2f} bytes per token), best of {arguments.repeats} runs taken in turns. \
The ids are equal in every document. `encode_batch_fast` is timed without taking the ids out of its encodings, \
`BulkEncoder` up to its uint32 arrays.

| threads | `encode_batch_fast`, MB/s | `BulkEncoder`, MB/s | ratio |
|---|---|---|---|
{rows}

Training the tokenizer on this text took {training:.1f} s; building an encoder, with its check against the reference, \
{construction:.1f} s (once: worker processes get it pickled).

Machine: {platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, \
{packages};
load average {load:.1f} when it started (what else ran took its share from both).
"""
    Path(__file__).with_suffix(".md").write_text(report, encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()
