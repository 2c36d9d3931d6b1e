"""The share of a training step that data loading takes, from a profile of the recipe `tiny`.

    python benchmarks/data_loading.py

Runs 60 steps of pretraining under cProfile and writes benchmarks/data_loading.md.
"""

import cProfile
import pstats
import tempfile
from pathlib import Path

from machine import describe_machine

from hfgpt.pretrain import main

STEPS = 60
REPORT = Path(__file__).with_suffix(".md")


def cumulative_seconds(profile: pstats.Stats, file: str, function: str) -> float:
    """Seconds spent in one function and what it calls."""
    found = [entry for (path, _, name), entry in profile.stats.items() if path.endswith(file) and name == function]  # type: ignore[attr-defined]
    return sum(entry[3] for entry in found)


def profiled_run() -> pstats.Stats:
    with tempfile.TemporaryDirectory() as root:
        quiet = ["--eval_strategy", "no", "--eval_tasks", "[]", "--sample_steps", "0", "--disable_tqdm"]
        profiler = cProfile.Profile()
        profiler.runcall(main, ["recipes/tiny.yaml", "--max_steps", str(STEPS), "--output_root", root, *quiet])
    return pstats.Stats(profiler)


if __name__ == "__main__":
    profile = profiled_run()
    steps = cumulative_seconds(profile, "transformers/trainer.py", "training_step")
    optimizer = cumulative_seconds(profile, "training/optimizer.py", "step")
    loading = cumulative_seconds(profile, "torch/utils/data/dataloader.py", "__next__")
    share = loading / (steps + optimizer + loading)
    REPORT.write_text(
        f"""# Data loading as a share of training

`python benchmarks/data_loading.py`: {STEPS} steps of the recipe `tiny` under cProfile, no loader process.

| part | seconds | share |
|---|---|---|
| forward and backward | {steps:.2f} | {steps / (steps + optimizer + loading):.1%} |
| optimizer (Muon and AdamW) | {optimizer:.2f} | {optimizer / (steps + optimizer + loading):.1%} |
| loading: order, rows, collation | {loading:.3f} | {share:.2%} |

{describe_machine()}
""",
        encoding="utf-8",
    )
    print(REPORT.read_text(encoding="utf-8"))
