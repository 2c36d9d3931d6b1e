"""metrics.jsonl has no seam after a resume, and its clock leaves out what is not training."""

import json
import time

import pytest

from hfgpt.training.record import RunRecord, read_records


def record_in(folder, **options) -> RunRecord:
    return RunRecord(folder, tokens_per_step=100, flops_per_token=6, rows_per_epoch=50, rows_per_step=10, **options)


def test_steps_become_tokens_flops_and_epochs(tmp_path):
    record = record_in(tmp_path)
    record.start(0)
    record.append(4, {"loss": 2.5})
    (entry,) = read_records(tmp_path / "metrics.jsonl")
    assert (entry["step"], entry["tokens"], entry["flops"], entry["epoch"], entry["loss"]) == (4, 400, 2400, 0.8, 2.5)


def test_a_resumed_run_repeats_no_step_and_its_clock_goes_on(tmp_path):
    record = record_in(tmp_path)
    record.start(0)
    for step in (1, 2, 3, 4):
        record.append(step, {"loss": float(step)})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    later = [json.dumps(json.loads(line) | {"seconds": 100.0 + i}) for i, line in enumerate(lines)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(later) + '\n{"step": 5, "lo')  # killed while writing
    resumed = record_in(tmp_path)
    resumed.start(2)
    resumed.append(3, {"loss": 3.5})
    entries = read_records(tmp_path / "metrics.jsonl")
    assert [(entry["step"], entry["loss"]) for entry in entries] == [(1, 1.0), (2, 2.0), (3, 3.5)]
    assert 101.0 <= entries[-1]["seconds"] < 111.0


def test_time_inside_a_pause_is_not_training(tmp_path):
    record = record_in(tmp_path)
    record.start(0)
    with record.paused():
        time.sleep(0.3)
    assert record.elapsed() < 0.25


def test_mfu_is_written_only_where_the_peak_is_known(tmp_path):
    unknown, known = record_in(tmp_path), record_in(tmp_path, peak_flops=1e6)
    for record in (unknown, known):
        record.start(0)
    time.sleep(0.02)
    assert set(unknown.speed(10)) == {"tokens_per_second"}
    speed = known.speed(10)
    assert speed["mfu"] == pytest.approx(speed["tokens_per_second"] * 6 / 1e6) and speed["peak_flops"] == 1e6


def test_other_processes_write_nothing(tmp_path):
    record = record_in(tmp_path, write=False)
    record.start(0)
    record.append(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())
