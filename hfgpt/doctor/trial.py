"""The real thing, small: torch on each device, five steps of training, an evaluation, an answer. In a process of its
own, `python -m hfgpt.doctor.trial FOLDER`, since what is wrong with a machine may end a process without a word.

The parent reads FOLDER/findings.jsonl, which grows by a line with each finding.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hfgpt.doctor.findings import Finding, findings_of

FINDINGS = "findings.jsonl"
OUTPUT = "output.txt"
STDERR = 2  # its file descriptor
TIME_LIMIT = 900  # seconds; half a minute on two slow cores, most of it imports
CHECKS = ("torch", "training", "evaluation", "generation")  # in this order
WRONG = "reinstall torch and the driver; if it stays so, the device is broken"
MAX_ERROR = 1e-2  # of bfloat16, which keeps 8 bits, over the largest entry of a product
# A model of 0.1 million parameters on 300 documents of the tiny world.
RECIPE = ("tiny", "--depth", "2", "--hidden_size", "64", "--vocab_size", "400", "--max_length", "64")
DATA = ("--tinyworld_documents", "300", "--validation_fraction", "0.05", "--num_proc", "1")
LENGTH = ("--max_steps", "5", "--warmup_steps", "0", "--total_batch_size", "512", "--per_device_train_batch_size", "8")
QUIET = ("--eval_tasks", "[]", "--sample_steps", "0", "--eval_strategy", "no", "--save_strategy", "no")


def run_trial(debug: bool, time_limit: float = TIME_LIMIT) -> list[Finding]:
    """What the checks of this file find, each of CHECKS once or more. `debug` shows what the process prints."""
    with tempfile.TemporaryDirectory(prefix="hfgpt-doctor-") as name:
        folder = Path(name)
        words = [sys.executable, "-m", "hfgpt.doctor.trial", name, *(["--debug"] if debug else [])]
        with (folder / OUTPUT).open("wb") as output:
            ended = _end_of(words, STDERR if debug else output.fileno(), time_limit)
        lines = folder / FINDINGS
        found = [Finding(**json.loads(line)) for line in lines.read_text().splitlines()] if lines.exists() else []
        missing = [check for check in CHECKS if check not in {finding.check for finding in found}]
        if missing:
            found.append(_unfinished(missing[0], ended, (folder / OUTPUT).read_text(errors="replace")))
            found += [Finding(check, "failed", "not tried, since the process had ended") for check in missing[1:]]
        return found


def main(folder: Path, debug: bool) -> None:
    """All checks of this file, one after the other."""
    model = folder / "tiny" / "pretrain"
    examinations: dict[str, Callable[[], Iterable[Finding]]] = {
        "torch": check_torch,
        "training": lambda: check_training(folder),
        "evaluation": lambda: check_evaluation(model, folder / "scores.json"),
        "generation": lambda: check_generation(model),
    }
    is_trained = True
    for check in CHECKS:
        found = [Finding(check, "failed", "not tried, since training failed")]
        if is_trained:
            found = list(findings_of(check, examinations[check], debug))
        is_trained &= check != "training" or found[-1].status == "ok"
        with (folder / FINDINGS).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(dataclasses.asdict(finding)) + "\n" for finding in found)


def check_torch() -> Iterator[Finding]:
    """A product of matrices on the CPU and on each GPU, and why no GPU is seen where one is there."""
    import torch

    with warnings.catch_warnings(record=True) as said:  # torch warns of a driver that does not fit
        warnings.simplefilter("always")
        num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    yield from _check_product(torch.device("cpu"), f"{torch.__version__}, built {built}; CPU")
    for index in range(num_gpus):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        found = f"GPU {index}: {name}, {free / 1e9:,.0f} of {total / 1e9:,.0f} GB free"
        yield from _check_product(torch.device("cuda", index), found)
        if free < total / 2:
            yield Finding("torch", "warning", f"GPU {index} is in use by another process", "see nvidia-smi")
    if num_gpus == 0 and has_nvidia_gpu():
        reason = str(said[-1].message).splitlines()[0] if said else "it gives no reason"
        if torch.version.cuda is None:
            remedy = "install the torch that is built with CUDA: https://pytorch.org/get-started/locally"
        else:
            remedy = f"update the GPU's driver, or install a torch for an older CUDA than {torch.version.cuda}"
        yield Finding("torch", "failed", f"there is a GPU, which torch cannot use: {reason}", remedy)


def _check_product(device, found: str) -> Iterator[Finding]:
    import torch

    torch.manual_seed(0)
    left, right = torch.randn(256, 256), torch.randn(256, 256)
    expected = left.double() @ right.double()
    product = (left.to(device, torch.bfloat16) @ right.to(device, torch.bfloat16)).double().cpu()
    error = ((product - expected).abs().max() / expected.abs().max()).item()
    if not error < MAX_ERROR:  # a NaN too
        yield Finding(
            "torch", "failed", f"{found}: a product of matrices is wrong by {error:.1%}", "replace the device"
        )
    else:
        yield Finding("torch", "ok", f"{found}; a bfloat16 product is right to {error:.1%}")


def has_nvidia_gpu() -> bool:
    """Whether the driver's own tool lists a GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    done = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, timeout=60)
    return done.returncode == 0 and "GPU 0" in done.stdout


def check_training(folder: Path) -> Iterator[Finding]:
    """Five steps of `hfgpt pretrain`: a tokenizer, rows, a model."""
    import math

    from hfgpt.pretrain import main as pretrain
    from hfgpt.training.record import read_records

    began = time.perf_counter()
    pretrain([*RECIPE, *DATA, *LENGTH, *QUIET, "--logging_steps", "1", "--output_root", str(folder)])
    records = read_records(folder / "tiny" / "pretrain" / "metrics.jsonl")
    losses = [record["loss"] for record in records if "loss" in record]
    found = f"{len(losses)} steps in {time.perf_counter() - began:.0f} s, loss {losses[0]:.2f} to {losses[-1]:.2f}"
    if len(losses) == 5 and all(map(math.isfinite, losses)) and losses[-1] < losses[0]:
        yield Finding("training", "ok", found)
    else:
        yield Finding("training", "failed", f"{found}: it must fall", "reinstall the packages as they were tested")


def check_evaluation(model: Path, scores: Path) -> Iterator[Finding]:
    """`hfgpt eval` on a few questions, by lm-eval."""
    from hfgpt.eval import main as evaluate

    began = time.perf_counter()
    evaluate([str(model), "--tasks", "tinyworld_sums", "--limit", "4", "--no_cache", "--output_path", str(scores)])
    (tasks,) = json.loads(scores.read_text(encoding="utf-8"))["results"].values()
    accuracies = ", ".join(f"{task} {found['acc']:.2f}" for task, found in tasks.items())
    yield Finding("evaluation", "ok", f"{accuracies} by lm-eval in {time.perf_counter() - began:.0f} s")


def check_generation(model: Path) -> Iterator[Finding]:
    """An answer of 16 tokens by the engine of chat, web and serve."""
    from hfgpt.chat.engine import Engine
    from hfgpt.chat.sampling import Sampling

    engine = Engine.from_pretrained(model)
    engine.stop_ids = frozenset()  # a model that knows nothing may stop at once
    (answer,) = engine.generate([engine.text_ids("In the town of")], Sampling(temperature=0, max_new_tokens=16))
    yield Finding("generation", "ok", f"{len(answer.token_ids)} tokens on {engine.model.device}")


def _end_of(words: list[str], output: int, time_limit: float) -> str:
    """How the process ended, in words. `output` is the file descriptor that it writes to."""
    try:
        offline = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
        }  # nothing of this needs the network, and nothing may wait for it
        code = subprocess.run(words, stdout=output, stderr=output, timeout=time_limit, env=offline).returncode
    except subprocess.TimeoutExpired:
        return f"it did not end within {time_limit:.0f} s"
    return f"signal {-code} ended it" if code < 0 else f"it ended with exit code {code}"


def _unfinished(check: str, ended: str, output: str) -> Finding:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = f"; it last said: {lines[-1][:200]}" if lines else ""
    return Finding(check, "failed", f"{ended}{last}", "hfgpt doctor --debug shows all that it says")


if __name__ == "__main__":
    main(Path(sys.argv[1]), debug="--debug" in sys.argv)
