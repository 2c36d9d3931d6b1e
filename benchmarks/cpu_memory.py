"""Training steps on a CPU whose C library keeps what a step frees, beside its usual way of giving it back.

    python benchmarks/cpu_memory.py

Both ways take turns, each in a process of its own, with as many threads as torch takes by itself. Writes
benchmarks/cpu_memory.md.
"""

import resource
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from machine import describe_machine

from hfgpt.bench.turns import SideProcess
from hfgpt.model import GPTConfig, GPTForCausalLM
from hfgpt.training.hardware import keep_freed_memory, peak_memory_bytes
from hfgpt.training.onednn import onednn_is_faster
from hfgpt.training.optimizer import MuonAdamWFactory
from hfgpt.training.rates import default_rates
from hfgpt.training.speed import multiply_by_onednn

VOCABULARY, CONTEXT, ROWS = 4096, 256, 8
CASES = ((4, False), (4, True), (6, False))  # depth, compiled
ROUNDS, STEPS = 25, 3
REPORT = Path(__file__).with_suffix(".md")


def serve_steps(connection: Connection, depth: int, compiled: bool, keep: bool) -> None:
    """For each order ("steps", n): seconds and page faults of a step, and the process's peak memory so far."""
    if keep:
        keep_freed_memory()
    torch.manual_seed(0)
    config = GPTConfig.from_depth(depth, head_dim=64, vocab_size=VOCABULARY, max_position_embeddings=CONTEXT)
    model = GPTForCausalLM(config).train()
    if onednn_is_faster():  # as training does
        multiply_by_onednn(model)
    optimizer = MuonAdamWFactory()(model, **default_rates(config.to_dict(), uses_muon=True))
    forward = torch.compile(model) if compiled else model
    while True:
        _, number = connection.recv()
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        for _ in range(number):
            input_ids = torch.randint(VOCABULARY, (ROWS, CONTEXT))
            forward(input_ids, labels=input_ids).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        peak = peak_memory_bytes(torch.device("cpu"))
        connection.send(((time.perf_counter() - start) / number, faults / number, peak))


def compare(depth: int, compiled: bool) -> str:
    """One row of the table; the first round of each side is not counted."""
    sides = [SideProcess(str(keep), serve_steps, depth, compiled, keep) for keep in (False, True)]
    try:
        for side in sides:
            side.ask("steps", 2 * STEPS)
        rounds = [[side.ask("steps", STEPS) for side in sides] for _ in range(ROUNDS)]
    finally:
        for side in sides:
            side.end()
    (usual, kept), (usual_faults, kept_faults) = (
        [statistics.median(taken[side][what] for taken in rounds) for side in (0, 1)] for what in (0, 1)
    )
    usual_peak, kept_peak = (rounds[-1][side][2] / 2**30 for side in (0, 1))
    name = f"depth {depth}{', compiled' if compiled else ''}"
    line = (
        f"| {name} | {1000 * usual:.0f} | {1000 * kept:.0f} | {kept / usual:.3f} | {usual_faults:,.0f} | "
        f"{kept_faults:,.0f} | {usual_peak:.2f} | {kept_peak:.2f} |"
    )
    print(line, flush=True)
    return line


def main() -> None:
    if not keep_freed_memory():
        raise SystemExit("this C library is not glibc: there is nothing to compare.")
    header = (
        "| step | usual, ms | kept, ms | of the usual | page faults, usual | page faults, kept | peak GiB, usual | "
        "peak GiB, kept |\n|---|---:|---:|---:|---:|---:|---:|---:|"
    )
    table = "\n".join([header, *(compare(*case) for case in CASES)])
    REPORT.write_text(
        f"""# Memory that a CPU's training step frees

`python benchmarks/cpu_memory.py`: steps of {ROWS} rows of {CONTEXT} tokens, vocabulary {VOCABULARY:,}, Muon,
{torch.get_num_threads()} threads; medians of {ROUNDS} rounds of {STEPS} steps in which both ways take turns. "Kept" is
how hfgpt trains on a CPU: glibc keeps what a step frees for the next one (`keep_freed_memory` of
`hfgpt/training/hardware.py`). By its usual way it gives large tensors back to the system, which clears their pages for
the next step. Peaks are of whole processes, with all libraries.

{table}

{describe_machine()}
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
