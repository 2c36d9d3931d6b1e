"""Time and memory of the head with its loss, and of both their gradients: all logits at once (plain), a chunk of
tokens at a time (ours), and torch's own linear_cross_entropy, which takes no soft cap.

    python benchmarks/fused_loss.py

Each way runs in a process of its own; the ways take turns. Writes benchmarks/fused_loss.md.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe_machine
from torch import Tensor
from torch.nn import functional as F

from hfgpt.model.linear_cross_entropy import linear_cross_entropy
from hfgpt.training.fused_loss import torch_linear_cross_entropy

SHAPES = ((256, 4_096, 2_048), (768, 32_768, 2_048))  # hidden size, vocabulary, tokens
ROUNDS = 3
STEPS = 3  # of a round, counted after one that is not
SOFT_CAP = 15.0
REPORT = Path(__file__).with_suffix(".md")


def plain(hidden: Tensor, head: Tensor, targets: Tensor, softcap: float | None) -> Tensor:
    logits = hidden @ head.T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, targets, reduction="sum")


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor, float | None], Tensor]] = {
    "plain": plain,
    "chunked": linear_cross_entropy,
    "torch": torch_linear_cross_entropy,
}


def measure(way: str, width: int, vocabulary: int, tokens: int, softcap: float | None) -> dict[str, float]:
    """Median seconds of a step, and the growth of this process's peak memory in MiB."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, requires_grad=True)
    head = torch.randn(vocabulary, width).mul_(0.05).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(1 + STEPS):
        hidden.grad = head.grad = None
        start = time.perf_counter()
        WAYS[way](hidden, head, targets, softcap).backward()
        seconds.append(time.perf_counter() - start)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": statistics.median(seconds[1:]), "mebibytes": grown / 1024}


def in_a_process(*words: object) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    lines = [
        "| hidden x vocabulary x tokens | soft cap | way | ms | of plain's | memory, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for width, vocabulary, tokens in SHAPES:
        for softcap in (SOFT_CAP, 0.0):
            ways = [way for way in WAYS if not (softcap and way == "torch")]
            rounds = [
                {way: in_a_process(way, width, vocabulary, tokens, softcap) for way in ways} for _ in range(ROUNDS)
            ]
            for way in ways:
                ms = 1000 * statistics.median(one[way]["seconds"] for one in rounds)
                ratio = statistics.median(one[way]["seconds"] / one["plain"]["seconds"] for one in rounds)
                memory = statistics.median(one[way]["mebibytes"] for one in rounds)
                shape = f"{width} x {vocabulary:,} x {tokens:,}"
                lines.append(f"| {shape} | {softcap or 'none'} | {way} | {ms:,.0f} | {ratio:.2f} | {memory:,.0f} |")
                print(lines[-1], flush=True)
    table = "\n".join(lines)
    REPORT.write_text(
        f"""# The head with its loss

`python benchmarks/fused_loss.py`: loss and both gradients of the head alone, float32, one thread; medians of {ROUNDS}
rounds of {STEPS} steps, each way in a process of its own; memory is the growth of that process's peak.

{table}

{describe_machine()}
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], *map(int, sys.argv[2:5]), float(sys.argv[5]) or None)))
    else:
        main()
