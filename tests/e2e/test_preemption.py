"""Runs that are told to end, in real processes: they save at a step's end, on all processes, and the same command goes
on to the very end that they would have had."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from commands import PROGRAMS, REPOSITORY
from safetensors.torch import load_file

from hfgpt.pretrain import main
from hfgpt.training.checkpoints import complete_checkpoints
from hfgpt.training.preemption import SAME_SIGNAL_SECONDS
from hfgpt.training.record import read_records

pytestmark = pytest.mark.slow

RECIPE = """\
model: {depth: 2, hidden_size: 128, hidden_dropout: 0.1}
tokenizer: {vocab_size: 400}
data: {dataset: tinyworld, tinyworld_documents: 200, max_length: 64, num_proc: 1, validation_fraction: 0.1}
pretrain: {max_steps: 100, total_batch_size: 1024, per_device_train_batch_size: 4, sample_steps: 0,
  logging_steps: 1, eval_strategy: 'no', save_steps: 100000, disable_tqdm: true, dataloader_num_workers: 1}
"""
ON_TWO = ["--num_processes", "2", "--main_process_port", "0"]
LAUNCHERS = {
    "hfgpt pretrain": ["hfgpt", "pretrain"],
    "hfgpt run": ["hfgpt", "run"],
    "torchrun": ["torchrun", "--standalone", "--nproc_per_node", "2", "hfgpt/pretrain.py"],
    "accelerate": [
        *("accelerate", "launch", "--config_file", "accelerate_configs/cpu_ddp.yaml"),
        *("--main_process_port", "0", "hfgpt/pretrain.py"),
    ],
    "accelerate under FSDP2": [
        *("accelerate", "launch", "--config_file", "accelerate_configs/fsdp2.yaml", *ON_TWO),
        *("tests/distributed/fsdp2_on_cpu.py", "pretrain"),
    ],
    "accelerate of one process": [
        *("accelerate", "launch", "--config_file", "accelerate_configs/single.yaml", "hfgpt/pretrain.py")
    ],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Folder with a recipe, its tokenizer and rows, and in `whole` a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "small.yaml").write_text(RECIPE)
    main([str(folder / "small.yaml"), "--output_root", str(folder / "whole")])
    return folder


def start(world: Path, launcher: str, name: str, *flags: str) -> tuple[subprocess.Popen, Path]:
    """A run in a process group of its own, and the stage's folder."""
    stage = world / name / "small" / "pretrain"
    stage.parent.mkdir(parents=True, exist_ok=True)
    for shared in ("tokenizer", "data"):
        if not (stage.parent / shared).exists():
            shutil.copytree(world / "whole" / "small" / shared, stage.parent / shared)
    program, *words = LAUNCHERS[launcher]
    prefix = "--pretrain." if launcher == "hfgpt run" else "--"
    words += [str(world / "small.yaml"), "--output_root", str(world / name)]
    words += [prefix + flag for flag in flags]
    process = subprocess.Popen(
        [str(PROGRAMS / program), *words],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    return process, stage


def wait_for_step(stage: Path, step: int, process: subprocess.Popen) -> None:
    for _ in range(2400):
        records = read_records(stage / "metrics.jsonl")
        if any(record["step"] >= step for record in records):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"step {step} was never reached:\n{process.communicate()[0]}")


def end_of(process: subprocess.Popen) -> tuple[int, str]:
    output, _ = process.communicate(timeout=300)
    print(output)
    return process.returncode, output


def is_gone(stage: Path) -> bool:
    """Whether no process works on this stage any more."""
    processes = (Path("/proc") / pid for pid in os.listdir("/proc") if pid.isdigit())
    return not any(str(stage.parents[1]) in _command_line(process) for process in processes)


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@pytest.mark.parametrize(
    ("launcher", "number", "whom", "code"),
    [
        ("hfgpt pretrain", signal.SIGTERM, "all", 75),
        ("hfgpt run", signal.SIGINT, "one", 75),
        ("torchrun", signal.SIGTERM, "one", 1),
        ("accelerate", signal.SIGINT, "all", 1),
        ("accelerate under FSDP2", signal.SIGTERM, "all", 1),
        ("accelerate of one process", signal.SIGTERM, "one", -signal.SIGTERM),
    ],
)
def test_a_run_that_is_told_to_end_saves_its_last_step_on_all_processes(world, launcher, number, whom, code):
    process, stage = start(world, launcher, f"told {launcher}")
    wait_for_step(stage, 3, process)
    told_at = read_records(stage / "metrics.jsonl")[-1]["step"]
    os.kill(process.pid, number) if whom == "one" else os.killpg(process.pid, number)
    ended, output = end_of(process)
    assert ended == code
    for _ in range(600):  # a launcher that died of the signal leaves its child to save
        if is_gone(stage):
            break
        time.sleep(0.1)
    complete, incomplete = complete_checkpoints(stage)
    assert not incomplete and len(complete) == 1
    stopped_at = read_records(stage / "metrics.jsonl")[-1]["step"]
    assert complete[0].name == f"checkpoint-{stopped_at}"
    assert told_at <= stopped_at < told_at + 60  # steps take some hundredths of a second
    ours = re.findall(r'File "(\S*/hfgpt/\S+\.py)", line', output)
    assert not ours  # a launcher whose child ends with a code prints a traceback of its own
    assert f"goes on from {complete[0]}" in output
    if launcher == "hfgpt pretrain":
        main([str(world / "small.yaml"), "--output_root", str(stage.parents[1])])
        one, other = (load_file(f / "model.safetensors") for f in (world / "whole" / "small" / "pretrain", stage))
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert [r["step"] for r in read_records(stage / "metrics.jsonl") if "loss" in r] == list(range(1, 101))


def test_a_second_signal_stops_at_once(world):
    slow_steps = ("total_batch_size=8192", "per_device_train_batch_size=16")
    process, stage = start(world, "hfgpt pretrain", "twice", *slow_steps)
    wait_for_step(stage, 1, process)
    os.kill(process.pid, signal.SIGINT)
    assert process.stdout is not None
    while "a second signal stops at once" not in process.stdout.readline():
        assert process.poll() is None
    os.kill(process.pid, signal.SIGSTOP)  # within the step
    time.sleep(SAME_SIGNAL_SECONDS + 0.2)
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    ended, _ = end_of(process)
    assert ended == -signal.SIGINT
    assert not list(stage.glob("checkpoint-[0-9]*"))


def test_a_signal_before_the_first_step_ends_the_run_as_it_ends_any_program(world):
    process, stage = start(world, "hfgpt pretrain", "early")
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGTERM)
    ended, _ = end_of(process)
    assert ended == -signal.SIGTERM and not list(stage.glob("checkpoint-*"))


def test_the_slurm_script_hands_the_signal_on_and_requeues_when_the_run_has_saved(tmp_path):
    log = tmp_path / "log"
    stand_ins = {
        "srun": 'shift\nSLURM_NODEID=0 "$@" &\ntrap "kill -TERM $!" TERM\nwait $!; wait $!\n',
        "accelerate": f'trap "echo saved >> {log}; exit 1" TERM\necho started >> {log}\nwhile :; do sleep 0.1; done\n',
        "scontrol": f'[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >> {log}\n',
    }
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}")
        (tmp_path / name).chmod(0o700)
    job = {"SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "this", "SLURM_JOB_ID": "77"}
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = ["/bin/bash", "accelerate_configs/slurm.sh", "hfgpt/pretrain.py", "recipes/tiny.yaml"]
    process = subprocess.Popen(script, cwd=REPOSITORY, env={**os.environ, **job, **path})
    for _ in range(600):
        if log.is_file():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    assert log.read_text().splitlines() == ["started", "saved", "requeue 77"]
