"""Preparing on a cluster gives, byte for byte, what one machine gives."""

import json
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hfgpt.arguments import DataArguments
from hfgpt.data import cluster, local_files
from hfgpt.data.cluster import prepare_on_cluster
from hfgpt.data.preparation import prepare_data
from hfgpt.data.prepared import open_prepared
from hfgpt.data.tinyworld import TinyWorld
from hfgpt.data.tokenizer import train_tokenizer
from hfgpt.errors import UserError

pytest.importorskip("datatrove", reason="the extra hfgpt[cluster] is not installed")

# Stands for Slurm's commands: runs each array task of the script at once, one after the other.
SBATCH = """#!/bin/bash
script=$(mktemp); cat "${@: -1}" > $script
tasks=$(grep -oP '#SBATCH --array=0-\\K[0-9]+' $script || echo 0)
echo "$@" >> $SLURM_STAND_IN/submitted
for task in $(seq 0 $tasks); do
  SLURM_ARRAY_TASK_ID=$task SLURM_NODELIST=here bash $script >> $SLURM_STAND_IN/log 2>&1 || exit 1
done
echo "Submitted batch job 7"
"""


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(TinyWorld(num_people=50, seed=1).documents(1000))


@pytest.fixture(scope="module")
def tokenizer_folder(texts, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(texts[:300], vocab_size=600).save_pretrained(folder)
    return folder


@pytest.fixture
def data(texts, tmp_path, monkeypatch) -> DataArguments:
    monkeypatch.setattr(local_files, "SHARD_BYTES", 1)  # every file is a shard
    (tmp_path / "text").mkdir()
    for number, part in enumerate(np.array_split(np.array(texts, dtype=object), 5)):
        lines = [json.dumps({"text": text}) + "\n" for text in part]
        (tmp_path / f"text/{number}.jsonl").write_text("".join(lines))
    return DataArguments(
        data_path=str(tmp_path / "text"), max_length=128, validation_fraction=0.1, shard_size=10_000, num_proc=1
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_ray_cluster_prepares_the_same_bytes(data, tokenizer_folder, tmp_path):
    ray = pytest.importorskip("ray", reason="the extra hfgpt[cluster] is not installed")
    expected = prepare_data(data, tokenizer_folder, tmp_path / "alone")
    ray.init(num_cpus=3, log_to_driver=False, include_dashboard=False, _memory=8 << 30)
    try:
        prepared = prepare_on_cluster(data, tokenizer_folder, tmp_path / "ray", executor="ray", tasks=4, workers=3)
        assert prepared.statistics == expected.statistics
        assert files_of(prepared.path) == files_of(expected.path)
        limited = replace(data, tokens_threshold=30_000)
        expected = prepare_data(limited, tokenizer_folder, tmp_path / "alone")
        prepared = prepare_on_cluster(limited, tokenizer_folder, tmp_path / "ray", executor="ray", tasks=2, workers=2)
        assert prepared.statistics == expected.statistics and prepared.train()[:] == expected.train()[:]
        (tmp_path / "text/3.jsonl").write_text('{"text": "right"}\n{"text": broken}\n')
        with pytest.raises(UserError, match=r"3\.jsonl.*line 2"):
            prepare_on_cluster(data, tokenizer_folder, tmp_path / "ray", executor="ray", tasks=5, workers=3)
    finally:
        ray.shutdown()


def test_local_processes_prepare_the_same_bytes_and_mend_what_is_damaged(data, tokenizer_folder, tmp_path):
    expected = prepare_data(data, tokenizer_folder, tmp_path / "alone")
    prepared = prepare_on_cluster(data, tokenizer_folder, tmp_path / "local", executor="local", tasks=3, workers=1)
    assert files_of(prepared.path) == files_of(expected.path)
    rows = prepared.path / "train/00002-00000.arrow"
    rows.write_bytes(rows.read_bytes()[:-9])
    prepared = prepare_on_cluster(data, tokenizer_folder, tmp_path / "local", executor="local", tasks=3, workers=1)
    assert files_of(prepared.path) == files_of(expected.path)


def test_slurm_jobs_prepare_the_same_bytes(data, tokenizer_folder, tmp_path, monkeypatch):
    commands = tmp_path / "commands"
    commands.mkdir()
    scripts = {"sbatch": SBATCH, "srun": '#!/bin/bash\n"${@:4}"\n', "scontrol": "#!/bin/bash\necho here\n"}
    for name, script in scripts.items():
        (commands / name).write_text(script)
        (commands / name).chmod(0o755 | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_STAND_IN", str(tmp_path))
    expected = prepare_data(data, tokenizer_folder, tmp_path / "alone")
    options = {"executor": "slurm", "tasks": 2, "workers": 2}
    with pytest.raises(UserError, match="partition and time"):
        prepare_on_cluster(data, tokenizer_folder, tmp_path / "slurm", **options)
    options["slurm"] = {"partition": "cpu", "time": "01:00:00"}
    assert prepare_on_cluster(data, tokenizer_folder, tmp_path / "slurm", **options) is None
    prepared = open_prepared(tmp_path / "slurm" / expected.path.name)
    assert prepared is not None, (tmp_path / "log").read_text()
    assert files_of(prepared.path) == files_of(expected.path)
    # The assembling job waits for the preparing one.
    assert "--dependency=afterok:7" in (tmp_path / "submitted").read_text()


def test_what_cannot_be_is_one_sentence(data, tokenizer_folder, tmp_path, monkeypatch):
    for options, message in [
        ({"executor": "pbs"}, "--executor is pbs"),
        ({"executor": "local", "tasks": 0}, "--tasks is 0"),
        ({"executor": "local", "workers": 0}, "--workers is 0"),
    ]:
        with pytest.raises(UserError, match=message):
            prepare_on_cluster(data, tokenizer_folder, tmp_path / "out", **options)
    monkeypatch.setitem(sys.modules, "ray", None)  # an import of it fails, as without the extra
    with pytest.raises(UserError, match=r"needs ray.*pip install 'hfgpt\[cluster\]'"):
        cluster.prepare_on_cluster(data, tokenizer_folder, tmp_path / "out", executor="ray")
