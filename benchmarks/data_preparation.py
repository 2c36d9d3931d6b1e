"""Cost of preparing and of loading rows, and what the packer's choice of the document to cut saves.

Usage: python benchmarks/data_preparation.py FOLDER [--copies 10]

FOLDER holds the corpora and books of the project's test data (corpora/, gutenberg/). Prints Markdown; the results are
kept in data_preparation.md.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader

from hfgpt.arguments import DataArguments
from hfgpt.data.bulk_encoding import BulkEncoder
from hfgpt.data.documents import source_shards
from hfgpt.data.packing import pack_documents
from hfgpt.data.preparation import prepare_data
from hfgpt.data.prepared import write_rows
from hfgpt.data.rows import OrderedRows, collate_rows
from hfgpt.data.splitting import is_validation
from hfgpt.data.tokenizer import load_tokenizer, train_tokenizer

VOCAB_SIZE = 16_384
PREPARE = """
import sys
from pathlib import Path
from hfgpt.arguments import DataArguments
from hfgpt.data.preparation import prepare_data
data = DataArguments(data_path=sys.argv[1], max_length=2048, shard_size=1_000_000, num_proc=int(sys.argv[2]))
prepare_data(data, Path(sys.argv[3]), Path(sys.argv[4]))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--copies", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = real_texts(arguments.folder)
        train_tokenizer(texts, VOCAB_SIZE).save_pretrained(folder / "tokenizer")
        for copies in (1, arguments.copies):
            write_copies(folder / f"x{copies}", texts, copies)
        load = os.getloadavg()[0]
        print(f"{os.cpu_count()} cores, load {load:.1f}, {sum(map(len, texts)) / 1e6:.1f} M characters of real text\n")
        stages(folder / "x1", folder)
        whole(folder, arguments.copies)
        loading(folder)
        cutting(folder / "tokenizer", arguments.folder)


def real_texts(folder: Path) -> list[str]:
    """Documents of the corpora, and the books' paragraphs joined to pieces of about 4,000 characters."""
    documents = []
    for data in (
        DataArguments(data_path=str(folder / "corpora")),
        DataArguments(data_path=str(folder / "gutenberg/*.txt"), format="gutenberg"),
    ):
        documents += [text for shard in source_shards(data) for text in shard.documents()]
    return [text[start : start + 4000] for text in documents for start in range(0, len(text), 4000)]


def write_copies(folder: Path, texts: list[str], copies: int) -> None:
    folder.mkdir()
    for copy in range(copies):
        with (folder / f"{copy}.jsonl").open("w") as file:
            file.writelines(json.dumps({"text": f"{copy} {text}"}) + "\n" for text in texts)


def megabytes_of(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def stages(path: Path, folder: Path) -> None:
    """CPU seconds of each stage of one process, one thread."""
    seconds: Counter[str] = Counter()

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        start = time.process_time()
        yield
        seconds[stage] += time.process_time() - start

    encoder = BulkEncoder(folder / "tokenizer")
    with timed("read"):
        texts = [text for shard in source_shards(DataArguments(data_path=str(path))) for text in shard.documents()]
    with timed("split"):
        train = [text for text in texts if not is_validation(text, 0.01)]
    with timed("encode"):
        tokens = [ids.astype(np.uint16) for ids in encoder.encode(train)]
    with timed("pack"):
        packed = pack_documents(tokens, 2048, 0)
    with timed("write"):
        write_rows(folder / "rows.arrow", packed.rows)
    megabytes = megabytes_of(path)
    print("| stage | CPU s | share | MB/s |\n|---|---|---|---|")
    for stage, spent in seconds.items():
        print(f"| {stage} | {spent:.2f} | {spent / seconds.total():.1%} | {megabytes / spent:,.0f} |")
    print(f"\n{packed.tokens_in / seconds['pack'] / 1e6:.0f} M tokens/s packed; {encoder.engine}\n")


def whole(folder: Path, copies: int) -> None:
    """prepare_data in a process of its own: wall time, and peak private memory of it and its workers."""
    print("| text | num_proc | s | CPU s | MB / CPU s | peak USS MB |\n|---|---|---|---|---|---|")
    for times, num_proc in ((1, 1), (copies, 1), (copies, 2)):
        path = folder / f"x{times}"
        megabytes = megabytes_of(path)
        output = folder / f"out-{times}-{num_proc}"
        command = [sys.executable, "-c", PREPARE, str(path), str(num_proc), str(folder / "tokenizer"), str(output)]
        start, peak = time.monotonic(), 0
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = subprocess.Popen(command)
        process = psutil.Process(run.pid)
        while run.poll() is None:
            try:
                family = [process, *process.children(recursive=True)]
                peak = max(peak, sum(member.memory_full_info().uss for member in family))
            except psutil.Error:
                pass
            time.sleep(0.05)
        assert run.returncode == 0
        seconds = time.monotonic() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        row = (f"{megabytes:.0f} MB", num_proc, f"{seconds:.1f}", f"{cpu:.1f}", f"{megabytes / cpu:.1f}")
        print("|", *(f"{cell} |" for cell in row), f"{peak / 1e6:.0f} |")
    print()


def loading(folder: Path) -> None:
    """Microseconds of one batch: its rows, their collation, and both through a DataLoader."""
    print("| rows x length | rows, us | collate, us | DataLoader, us | datasets' own indexing, us |")
    print("|---|---|---|---|---|")
    for max_length, batch_size in ((256, 8), (1024, 32), (2048, 32)):
        data = DataArguments(data_path=str(folder / "x1"), max_length=max_length, shard_size=1_000_000)
        rows = prepare_data(data, folder / "tokenizer", folder / "out").train()
        count = 300
        ordered = OrderedRows(rows, seed=1, total_rows=count * batch_size)
        batches = [list(range(i * batch_size, (i + 1) * batch_size)) for i in range(count)]
        collate = collate_rows(0)
        fetched = [ordered.__getitems__(batch) for batch in batches]
        loader = DataLoader(ordered, batch_size=batch_size, collate_fn=collate)
        plain = [ordered.order(np.array(batch)).tolist() for batch in batches[::10]]
        seconds = (
            best(lambda ordered=ordered, batches=batches: [ordered.__getitems__(batch) for batch in batches]) / count,
            best(lambda collate=collate, fetched=fetched: [collate(batch) for batch in fetched]) / count,
            best(lambda loader=loader: list(map(len, loader))) / count,
            best(lambda rows=rows, plain=plain: [rows[batch] for batch in plain]) / len(plain),
        )
        times = " | ".join(f"{spent * 1e6:,.0f}" for spent in seconds)
        print(f"| {batch_size} x {max_length} | {times} |")
    print()


def best(run: Callable[[], object]) -> float:
    """Seconds of the fastest of five runs."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def cutting(tokenizer_folder: Path, folder: Path) -> None:
    """What each way to cut costs: documents cut, and tokens that lost context by a cut that was not of necessity."""
    tokenizer = load_tokenizer(tokenizer_folder)
    data = DataArguments(data_path=str(folder / "corpora/c4_demo.first240.jsonl"))
    texts = [text for shard in source_shards(data) for text in shard.documents()]
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False).input_ids]
    lengths = np.random.default_rng(0).choice(lengths, 70 * len(lengths))
    print("C4's document lengths, drawn 70 times over\n")
    print("| row | cut | part in the row | documents cut | tokens that lost context | of them all but < 128 |")
    print("|---|---|---|---|---|---|")
    for max_length in (256, 2048):
        for which in ("shortest", "longest"):
            for part in ("beginning", "end"):
                cuts, lost, nearly_all = cut_cost(lengths, max_length, which, part)
                print(f"| {max_length} | {which} | {part} | {cuts:.1%} | {lost:.2%} | {nearly_all:.2%} |")


def cut_cost(lengths: np.ndarray, max_length: int, which: str, part: str) -> tuple[float, float, float]:
    """Best fit over (size, tokens of context lost) with each way to cut."""
    pool: dict[int, list[int]] = {}
    sizes: list[int] = []

    def put(size: int, lost: int) -> None:
        if size not in pool:
            pool[size] = []
            insort(sizes, size)
        pool[size].append(lost)

    for length in lengths % (max_length - 1):
        put(int(length) + 1, 0)
    pooled = sum(size * len(pieces) for size, pieces in pool.items())
    cuts = 0
    placed: list[tuple[int, int]] = []
    while pooled >= max_length:
        space = max_length
        while space > 1:
            fitting = bisect_right(sizes, space)
            chosen = fitting - 1 if fitting else (0 if which == "shortest" else -1)
            size = sizes[chosen]
            lost = pool[size].pop()
            if not pool[size]:
                del pool[size], sizes[chosen]
            pooled -= size
            if size > space:
                cuts += 1
                rest = size - space + 1
                pooled += rest
                put(rest, lost if part == "end" else lost + space - 1)
                size, lost = space, lost if part == "beginning" else lost + rest - 1
            placed.append((size - 1, lost))
            space -= size
    tokens = lengths.sum()
    affected = sum(length for length, lost in placed if lost)
    return cuts / len(lengths), affected / tokens, sum(min(length, 128) for length, lost in placed if lost) / tokens


if __name__ == "__main__":
    main()
