"""Real disks: one that is full, and one for each node."""

import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from commands import PROGRAMS, REPOSITORY

from hfgpt.commands import data_prepare
from hfgpt.model import GPTForCausalLM
from hfgpt.training.checkpoints import complete_checkpoints, obstacle, read_mark
from hfgpt.training.record import read_records

pytestmark = pytest.mark.slow

TINY = ["recipes/tiny.yaml", "--depth", "2", "--hidden_size", "128", "--vocab_size", "400", "--max_length", "64"]
DATA = ["--tinyworld_documents", "400", "--validation_fraction", "0.05", "--num_proc", "1"]
BATCH = ["--total_batch_size", "512", "--per_device_train_batch_size", "8", "--max_steps", "8"]
QUIET = [
    "--disable_tqdm",
    "--eval_tasks",
    "[]",
    "--sample_steps",
    "0",
    "--eval_strategy",
    "no",
    "--logging_steps",
    "1",
]
IN_A_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


def small_disk(folder: Path, mebibytes: int, command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command that alone sees a file system of this size mounted on `folder`."""
    folder.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o size={mebibytes}m none {folder} && {command}"
    return subprocess.run([*IN_A_NAMESPACE, mount], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)


def test_a_run_on_a_full_disk_keeps_its_checkpoints_and_comes_to_its_end(tmp_path):
    if shutil.which("unshare") is None or small_disk(tmp_path / "disk", 1, "true").returncode != 0:
        pytest.skip("needs leave to mount a tmpfs in a namespace of its own")
    root, disk, copy = tmp_path / "runs", tmp_path / "disk", tmp_path / "copy"
    data_prepare([*TINY, *DATA, "--output_root", str(root)])
    saves = ["--save_steps", "1", "--save_total_limit", "0"]
    where = ["--output_root", str(root), "--output_dir", str(disk / "run")]
    words = [str(PROGRAMS / "hfgpt"), "pretrain", *TINY, *DATA, *BATCH, *QUIET, *saves, *where]
    line = f"OMP_NUM_THREADS=1 {' '.join(map(repr, words))} && cp -r {disk / 'run'} {copy}"
    done = small_disk(disk, 40, line)
    assert done.returncode == 0, done.stderr[-3000:]
    complete, incomplete = complete_checkpoints(copy)
    steps = [int(folder.name.removeprefix("checkpoint-")) for folder in complete]
    assert 1 <= len(steps) < 8 and steps == list(range(1, len(steps) + 1)) and not incomplete
    assert all(obstacle(folder) is None for folder in complete)
    assert not (copy / "checkpoint-being-written").exists()
    refusals = [line for line in done.stdout.splitlines() if "was not saved (it takes" in line]
    assert len(refusals) == 8 - len(steps)
    assert all(f"The run goes on; checkpoint-{steps[-1]} stays the newest." in line for line in refusals)
    records = read_records(copy / "metrics.jsonl")
    assert [record["step"] for record in records if "loss" in record] == [1, 2, 3, 4, 5, 6, 7, 8]
    saved = [record for record in records if "save_seconds" in record]
    marks = [read_mark(folder) for folder in complete]
    assert [(r["step"], r["checkpoint_bytes"]) for r in saved] == [
        (step, mark.num_bytes) for step, mark in zip(steps, marks, strict=True) if mark
    ]
    assert GPTForCausalLM.from_pretrained(copy).num_parameters() > 100_000


def test_where_disks_are_local_each_node_has_its_mark_and_all_agree(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = []
    for node in range(2):
        (tmp_path / f"node{node}").mkdir()
        where = ["--nnodes", "2", "--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", str(port)]
        command = [
            PROGRAMS / "torchrun",
            "--node_rank",
            str(node),
            *where,
            REPOSITORY / "tests/training/saving_node.py",
        ]
        nodes.append(subprocess.Popen(command, cwd=tmp_path / f"node{node}", text=True, stdout=-1, stderr=-2))
    printed = [process.communicate(timeout=280)[0] for process in nodes]
    assert [process.returncode for process in nodes] == [0, 0], printed
    for node in range(2):
        run = tmp_path / f"node{node}" / "run"
        assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-6"]
        mark = read_mark(run / "checkpoint-2")
        assert mark is not None and {"model.safetensors", "optimizer.pt", f"rng_state_{node}.pth"} < set(mark.files)
        assert f"rng_state_{1 - node}.pth" not in mark.files
        told = json.loads((tmp_path / f"node{node}" / "told.json").read_text())
        assert told == {
            "folder": "run/checkpoint-2",
            "said": [
                "run/checkpoint-6 is damaged (optimizer.pt) and is not used.",  # on the other disk, to one of them
                "going on from run/checkpoint-2",
            ],
            "short": "short/checkpoint-4",  # which one node would have removed for a newer that the other has not
            "left": [["checkpoint-4", "checkpoint-6"], ["checkpoint-4"]][node],
        }
    assert obstacle(tmp_path / "node0" / "run" / "checkpoint-6") is None
    assert "checkpoint-4 was not saved" in printed[0]
