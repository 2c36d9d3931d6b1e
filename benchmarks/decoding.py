"""The generation engine against transformers' `generate`: greedy, same model, same tokens, in one run.

    python benchmarks/decoding.py [--tokens 256] [--repeats 7] [--compile]

A 4-layer, 256-wide model of the depth series with random weights. The two sides take turns and the median of each
counts; every repetition's tokens must be equal. Prints the tables and writes them to benchmarks/decoding.md.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe_machine

from hfgpt.chat.engine import Engine
from hfgpt.chat.sampling import Sampling
from hfgpt.data.tokenizer import train_tokenizer
from hfgpt.model import GPTConfig, GPTForCausalLM

REPORT = Path(__file__).with_suffix(".md")
BATCH_SIZES = (1, 16)
PROMPT_TOKENS = 32
VOCABULARY = 4096
CONTEXTS = {
    "full attention": {"max_position_embeddings": 1024, "sliding_window": 0},
    "default windows, context 512 (128, 128, 128, full)": {"max_position_embeddings": 512},
    "default windows, context 2048 (512, 512, 512, full)": {"max_position_embeddings": 2048},
}
Side = Callable[[list[list[int]]], list[list[int]]]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=256, help="New tokens for each prompt.")
    parser.add_argument("--repeats", type=int, default=7, help="Runs of each side, taken in turns; the median counts.")
    parser.add_argument("--compile", action="store_true", help="Measure torch.compile too (a minute more for each).")
    return parser.parse_args()


def build_model(overrides: dict) -> GPTForCausalLM:
    torch.manual_seed(0)
    model = GPTForCausalLM(GPTConfig.from_depth(4, vocab_size=VOCABULARY, **overrides)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # a fresh model's blocks add nothing
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.generation_config.eos_token_id = VOCABULARY  # no such token: nothing ends early
    model.generation_config.pad_token_id = 0
    return model


def side_of_generate(model: GPTForCausalLM, tokens: int) -> Side:
    def run(prompts: list[list[int]]) -> list[list[int]]:
        ids = torch.tensor(prompts)
        mask = torch.ones_like(ids)
        with torch.inference_mode():
            output = model.generate(ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False)  # type: ignore[operator]
        return output[:, PROMPT_TOKENS:].tolist()

    return run


def side_of_engine(engine: Engine, tokens: int) -> Side:
    sampling = Sampling(temperature=0, max_new_tokens=tokens)
    return lambda prompts: [completion.token_ids for completion in engine.generate(prompts, sampling)]


def median_seconds(sides: dict[str, Side], prompts: list[list[int]], repeats: int) -> dict[str, float]:
    """Seconds of each side; the first round warms up and compiles."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        outputs = []
        for name, run in sides.items():
            start = time.perf_counter()
            outputs.append(run(prompts))
            if repeat:
                seconds[name].append(time.perf_counter() - start)
        assert all(output == outputs[0] for output in outputs), "the sides do not give the same tokens"
    return {name: statistics.median(times) for name, times in seconds.items()}


def first_use(engine: Engine, prompt: list[int]) -> float:
    """Seconds to the first two tokens of an engine that has done nothing yet, compilation included."""
    start = time.perf_counter()
    list(engine.stream(prompt, Sampling(temperature=0, max_new_tokens=2)))
    return time.perf_counter() - start


def measure(context: str, overrides: dict, arguments: argparse.Namespace) -> list[str]:
    """The rows of one model's table."""
    torch.compiler.reset()  # it compiles one piece of code a few times only, and all engines share theirs
    model = build_model(overrides)
    tokenizer = train_tokenizer(["bytes alone"], vocab_size=265)
    engines = {"engine": Engine(model, tokenizer)}
    if arguments.compile:
        engines["engine, compiled"] = Engine(model, tokenizer, compile=True)
    sides = {"generate": side_of_generate(model, arguments.tokens)}
    sides |= {name: side_of_engine(engine, arguments.tokens) for name, engine in engines.items()}
    prompts = torch.randint(9, VOCABULARY, (max(BATCH_SIZES), PROMPT_TOKENS)).tolist()
    starts = {name: first_use(engine, prompts[0]) for name, engine in engines.items()}
    rows = []
    for batch_size in BATCH_SIZES:
        seconds = median_seconds(sides, prompts[:batch_size], arguments.repeats)
        for name in engines:
            speeds = [batch_size * arguments.tokens / seconds[side] for side in ("generate", name)]
            cells = (
                context,
                batch_size,
                name,
                f"{speeds[0]:,.0f}",
                f"{speeds[1]:,.0f}",
                f"{speeds[1] / speeds[0]:.2f}x",
            )
            rows.append(f"| {' | '.join(map(str, cells))} | {starts[name]:.2f} |")
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    arguments = parse_arguments()
    load = os.getloadavg()[0]
    rows = [row for context, overrides in CONTEXTS.items() for row in measure(context, overrides, arguments)]
    flag = " --compile" if arguments.compile else ""
    REPORT.write_text(
        f"""# Decoding

`python benchmarks/decoding.py --tokens {arguments.tokens} --repeats {arguments.repeats}{flag}`: the generation engine
against transformers' `generate` with its default cache, greedy, in one run. Model: depth series, 4 layers, 256 wide,
vocabulary {VOCABULARY:,}, float32, random weights; {PROMPT_TOKENS} prompt tokens and {arguments.tokens} new ones a
row. Tokens a second over the whole call, reading the prompt included; for the engine also making text and the log
probability of every token. Sides take turns; medians of {arguments.repeats}. The tokens are equal in every repetition.

| attention | batch | side | `generate`, tokens/s | engine, tokens/s | ratio | engine's first two tokens, s |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

Machine: {describe_machine()} {torch.get_num_threads()} threads; load average {load:.1f} at the start (what else ran
took its share from both).
""",
        encoding="utf-8",
    )
    print(REPORT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
