"""Float32 products on a CPU, and whole training steps made of them: torch's own (MKL) beside oneDNN's.

    python benchmarks/cpu_products.py

Both ways take turns in one process, with as many threads as torch takes by itself. Writes benchmarks/cpu_products.md.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe_machine

from hfgpt.model import GPTConfig, GPTForCausalLM
from hfgpt.training import onednn
from hfgpt.training.muon import polar_express
from hfgpt.training.optimizer import MuonAdamWFactory
from hfgpt.training.rates import default_rates
from hfgpt.training.speed import multiply_by_onednn

TOKENS, VOCABULARY = 2048, 4096
LINEARS = ((256, 256), (256, 1024), (1024, 256), (768, 3072))  # inputs, outputs
STACKS = ((16, 256, 256), (8, 256, 1024))  # of Muon, as a model of depth 4 has them
DEPTHS = (4, 6)
ROUNDS = 15
REPORT = Path(__file__).with_suffix(".md")
Way = Callable[[], object]


def in_turns(ways: list[Way]) -> list[float]:
    """Median seconds of each way; the first round is not counted."""
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(1 + ROUNDS):
        for way, measured in zip(ways, seconds, strict=True):
            start = time.perf_counter()
            way()
            measured.append(time.perf_counter() - start)
    return [statistics.median(measured[1:]) for measured in seconds]


def linear_rows() -> list[str]:
    rows = []
    for inputs, outputs in LINEARS:
        x, weight, gradient = (torch.randn(TOKENS, inputs), torch.randn(outputs, inputs), torch.randn(TOKENS, outputs))
        products = {
            "forwards": (x, weight.T),
            "gradient of the inputs": (gradient, weight),
            "gradient of the weights": (gradient.T, x),
        }
        for name, (left, right) in products.items():
            plain, ours = in_turns([lambda a=left, b=right: a @ b, lambda a=left, b=right: onednn.matmul(a, b)])
            rows.append(row(f"{inputs} -> {outputs}, {name}", plain, ours))
    return rows


def muon_rows() -> list[str]:
    rows = []
    for shape in STACKS:
        stack = torch.randn(shape)
        ways: list[Way] = [
            lambda s=stack: polar_express(s),
            lambda s=stack: polar_express(s, onednn.bmm, onednn.baddbmm),
        ]
        rows.append(row(f"Muon, {' x '.join(map(str, shape))}", *in_turns(ways)))
    return rows


def step_row(depth: int) -> str:
    """Whole steps of 8 rows of 256 tokens: forwards, backwards and MuonAdamW, not compiled."""
    steps = [training_step(depth, by_onednn=False), training_step(depth, by_onednn=True)]
    return row(f"a training step at depth {depth}", *in_turns(steps))


def training_step(depth: int, by_onednn: bool) -> Way:
    torch.manual_seed(0)
    config = GPTConfig.from_depth(depth, head_dim=64, vocab_size=VOCABULARY, max_position_embeddings=256)
    model = GPTForCausalLM(config).train()
    if by_onednn:
        multiply_by_onednn(model)
    optimizer = MuonAdamWFactory()(model, **default_rates(config.to_dict(), uses_muon=True))
    input_ids = torch.randint(VOCABULARY, (TOKENS // 256, 256))

    def step() -> None:
        with torch.backends.mkldnn.flags(enabled=by_onednn):  # Muon's products go by this
            model(input_ids, labels=input_ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return step


def row(name: str, plain: float, ours: float) -> str:
    line = f"| {name} | {1000 * plain:.1f} | {1000 * ours:.1f} | {ours / plain:.2f} |"
    print(line, flush=True)
    return line


def main() -> None:
    with torch.no_grad():
        rows = linear_rows() + muon_rows()
    rows += [step_row(depth) for depth in DEPTHS]
    table = "\n".join(["| product | torch's own, ms | oneDNN, ms | of torch's |", "|---|---:|---:|---:|", *rows])
    REPORT.write_text(
        f"""# Products on a CPU

`python benchmarks/cpu_products.py`: float32, {TOKENS:,} tokens, {torch.get_num_threads()} threads; medians of {ROUNDS}
rounds in which both ways take turns. hfgpt trains by oneDNN on AMD processors with AVX-512, and only there: elsewhere
it has not been measured to gain (`hfgpt/training/onednn.py`).

{table}

{describe_machine()}
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
