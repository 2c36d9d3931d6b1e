"""Kills runs at random instants, a third of them inside a save, and lets them go on: what comes out, counted.

    python tests/reliability.py --kills 30 --output benchmarks/reliability.md

Pretraining and SFT in real processes, each run killed by SIGKILL several times. After each kill the run must go on
from the newest checkpoint that was complete; at its end it must have the weights, bit for bit, and the records of the
run that nobody killed. `tests/e2e/test_reliability.py` runs a short form.
"""

import argparse
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file

from hfgpt.training.checkpoints import STAGING, checkpoint_step, complete_checkpoints
from hfgpt.training.record import read_records

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPE = """\
model: {depth: 2, hidden_size: 128, hidden_dropout: 0.1}
tokenizer: {vocab_size: 400}
data: {dataset: tinyworld, tinyworld_documents: 300, tinyworld_conversations: 300, max_length: 64, num_proc: 1,
  validation_fraction: 0.05}
pretrain: {max_steps: 60, total_batch_size: 1024, per_device_train_batch_size: 8, sample_steps: 0, logging_steps: 4,
  eval_steps: 25, save_steps: 7, save_total_limit: 2, disable_tqdm: true}
sft: {max_steps: 60, per_device_train_batch_size: 16, logging_steps: 4, eval_steps: 25, save_steps: 7,
  save_total_limit: 2, sample_prompts: [Hello], sample_max_new_tokens: 4, disable_tqdm: true}
"""
STAGES = ("pretrain", "sft")
KILLS_OF_A_RUN = 5
BEFORE_THE_FIRST_STEP = 0.2  # share of the kills that come while a process still starts
DEADLINE = 300.0  # seconds in which a process must do what is waited for
HEAD = (
    "| stage | kills | inside a save | went on from the newest complete checkpoint | steps lost, at most | runs | "
    "ended bit-identical | with the same records |"
)
ABOVE = (
    "Processes killed by SIGKILL at random instants, several times a run, and started again. Every 7 steps a",
    "checkpoint is written, and finished while training goes on.",
)
BELOW = (
    "Bit-identical: the weights of the run that nobody killed, to the last bit, with dropout. Records are those of",
    "losses, gradient norms, rates and evaluations in `metrics.jsonl`, each step once.",
)
MEASURED = ("step", "tokens", "epoch", "loss", "val_loss", "grad_norm", "learning_rate", "mean_token_accuracy")


@dataclass
class Outcome:
    """What became of the runs of one stage."""

    kills: int = 0
    inside_a_save: int = 0
    resumed: int = 0
    runs: int = 0
    bit_identical: int = 0
    same_records: int = 0
    steps_lost: list[int] = field(default_factory=list)


class Trial:
    """Runs of one stage in `folder`, and the one among them, `whole`, that nobody kills."""

    def __init__(self, folder: Path, stage: str, chance: random.Random):
        self.folder, self.stage, self.chance = folder, stage, chance
        self.done = Outcome()
        self.whole = folder / "whole" / "small" / stage
        began = time.monotonic()
        process, log = self._start(self.whole)
        if process.wait(DEADLINE):
            raise RuntimeError(f"the run that nobody kills failed:\n{log.read_text()}")
        self.seconds = read_records(self.whole / "metrics.jsonl")[-1]["seconds"]
        self.seconds_to_start = time.monotonic() - began - self.seconds

    def kill(self, kills: int, inside_a_save: int) -> Outcome:
        """Kill runs `kills` times, `inside_a_save` of them inside a save; each run goes on to its end."""
        while self.done.kills < kills:
            run = self.folder / f"{self.stage}-{self.done.runs}"
            last_kill = min(self.done.kills + KILLS_OF_A_RUN, kills)
            not_seen = 0  # kills after which no process has come as far as a step yet
            while not _is_done(run):
                newest, process_began = _newest(run), time.time()
                process, log = self._start(run)
                was_killed = False
                if self.done.kills < last_kill:
                    self._wait_for_an_instant(process, run, process_began, self.done.inside_a_save < inside_a_save)
                    was_killed = self._kill(process, run, process_began)
                if not was_killed and process.wait(DEADLINE) not in (0, -signal.SIGKILL):
                    raise RuntimeError(f"{run} cannot go on:\n{log.read_text()}")
                said = log.read_text()
                if re.search(r"^step +\d+/", said, re.MULTILINE) or _is_done(run):
                    self.done.resumed += not_seen if _goes_on_from(said, newest) else 0
                    not_seen = 0
                not_seen += was_killed
            self._compare(run)
        return self.done

    def _start(self, run: Path) -> tuple[subprocess.Popen, Path]:
        run.mkdir(parents=True, exist_ok=True)
        log = run.with_name(f"{run.name}.log")
        words = [sys.executable, REPOSITORY / "hfgpt" / f"{self.stage}.py", self.folder / "small.yaml"]
        words += ["--output_root", self.folder / "whole", "--output_dir", run]
        if self.stage != "pretrain":
            words += ["--model_name_or_path", self.folder / "whole" / "small" / "pretrain"]
        with log.open("w") as file:
            return subprocess.Popen([str(word) for word in words], stdout=file, stderr=file), log

    def _wait_for_an_instant(self, process: subprocess.Popen, run: Path, began: float, inside_a_save: bool) -> None:
        """Until shortly after a save has begun, or some time of a start, or of the training after it."""
        if inside_a_save:
            _wait_until(lambda: _is_saving(run, began), process)
            time.sleep(self.chance.uniform(0, 0.1))
        elif self.chance.random() < BEFORE_THE_FIRST_STEP:
            time.sleep(self.chance.uniform(0, self.seconds_to_start))
        else:
            metrics = run / "metrics.jsonl"
            _wait_until(lambda: metrics.is_file() and metrics.stat().st_mtime > began, process)
            time.sleep(self.chance.uniform(0, self.seconds / 2))

    def _kill(self, process: subprocess.Popen, run: Path, began: float) -> bool:
        """Whether the process was still there to be killed, with something left to do."""
        process.kill()
        if process.wait() != -signal.SIGKILL or _is_done(run):
            return False
        newest, records = _newest(run), read_records(run / "metrics.jsonl")
        last_step = max((record["step"] for record in records), default=0)
        self.done.kills += 1
        self.done.inside_a_save += _is_saving(run, began)
        self.done.steps_lost.append(last_step - (checkpoint_step(newest) if newest else 0))
        return True

    def _compare(self, run: Path) -> None:
        one, other = load_file(self.whole / "model.safetensors"), load_file(run / "model.safetensors")
        self.done.runs += 1
        self.done.bit_identical += one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
        self.done.same_records += _records(self.whole) == _records(run)


def _is_done(run: Path) -> bool:
    return (run / "final_metrics.json").is_file()


def _newest(run: Path) -> Path | None:
    complete, _ = complete_checkpoints(run)
    return complete[-1] if complete else None


def _goes_on_from(said: str, newest: Path | None) -> bool:
    return f"going on from {newest}" in said if newest else "going on from" not in said


def _records(run: Path) -> list[dict]:
    """What the records say of the steps, not of the time that they took."""
    records = read_records(run / "metrics.jsonl")
    return [{name: r[name] for name in MEASURED if name in r} for r in records if "loss" in r or "val_loss" in r]


def _is_saving(run: Path, since: float) -> bool:
    """Whether a save that began after `since` is under way, or was when the process was killed."""
    try:
        return (run / STAGING).stat().st_mtime > since
    except FileNotFoundError:
        return False


def _wait_until(is_so: Callable[[], bool], process: subprocess.Popen) -> None:
    """Until it is so or the process has ended."""
    end = time.monotonic() + DEADLINE
    while not is_so() and process.poll() is None:
        if time.monotonic() > end:
            process.kill()
            raise RuntimeError("the process did nothing for too long")
        time.sleep(0.002)


def try_both_stages(kills: int, seed: int) -> dict[str, Outcome]:
    """Kill pretraining and SFT, half of `kills` each, a third of them inside a save."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "small.yaml").write_text(RECIPE)
        outcomes = {}
        for stage, share in zip(STAGES, (-(-kills // 2), kills // 2), strict=True):
            outcomes[stage] = Trial(Path(folder), stage, chance).kill(share, -(-share // 3))
        return outcomes


def as_page(outcomes: dict[str, Outcome], command: str) -> str:
    """benchmarks/reliability.md."""
    table = [HEAD, "|---" * HEAD.count(" | ") + "|---|"]
    for stage, o in outcomes.items():
        counts = (o.kills, o.inside_a_save, o.resumed, max(o.steps_lost), o.runs, o.bit_identical, o.same_records)
        table.append(" | ".join(["| " + stage, *map(str, counts)]) + " |")
    machine = f"{os.cpu_count()} {platform.machine()} cores, torch {torch.__version__}"
    return "\n".join(["# Kills", "", f"`{command}` ({machine})", "", *ABOVE, "", *table, "", *BELOW, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="where the page goes; without it, to the terminal")
    flags = parser.parse_args()
    outcomes = try_both_stages(flags.kills, flags.seed)
    page = as_page(outcomes, f"python tests/reliability.py --kills {flags.kills}")
    if flags.output:
        flags.output.write_text(page, encoding="utf-8")
    else:
        print(page)
    sys.exit(not all(o.resumed == o.kills and o.bit_identical == o.same_records == o.runs for o in outcomes.values()))


if __name__ == "__main__":
    main()
