"""`hfgpt compare`: the command on written folders, on the tiny run's stages, and in trackio's page."""

import json

import pytest
from commands import succeed
from run_folders import falling_records, write_stage

from hfgpt.cli import main

LOGGED = """
import json, sys, trackio
from trackio.sqlite_storage import SQLiteStorage
runs = {run.name: run for run in trackio.Api().runs(sys.argv[1])}
logs = {name: SQLiteStorage.get_logs(sys.argv[1], name) for name in runs}
print(json.dumps({name: [logs[name], runs[name].config] for name in runs}, default=str))
"""


def test_it_prints_the_table_and_leaves_it_beside_the_picture(tmp_path, capsys):
    for name, bits in (("one", [2.0, 1.5]), ("two", [2.0, 1.2])):
        write_stage(tmp_path / name / "pretrain", falling_records([100, 200], bits))
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    printed = capsys.readouterr().out
    assert "two reached one's last bits per byte (1.5000) at 0.81 of its tokens" in printed
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "![loss and abilities](comparison.png)" in (tmp_path / "comparison.md").read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["one", "two", "--output", "table.md"], "must end in .png"),
        (["one", "nowhere"], "nowhere holds no run"),
        (["one", "two", "--stage", "sft"], "has no stage sft"),
        (["one", "two", "--outptu", "a.png"], "--outptu is not known; the nearest is --output"),
    ],
)
def test_a_mistake_ends_in_one_sentence(tmp_path, capsys, monkeypatch, words, sentence):
    for name in ("one", "two"):
        write_stage(tmp_path / name / "pretrain", falling_records([100, 200], [2.0, 1.5]))
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.slow
def test_the_comparison_is_in_trackios_page_once_however_often_it_is_logged(tmp_path):
    for name, bits in (("one", [2.0, 1.5]), ("two", [2.0, 1.2])):
        write_stage(tmp_path / name / "pretrain", falling_records([100, 200], bits))
    words = ("hfgpt", "compare", tmp_path / "one", tmp_path / "two", "--trackio", "side-by-side")
    where = {"TRACKIO_DIR": str(tmp_path / "trackio")}  # read when trackio is imported: in a process of its own
    succeed(*words, **where)
    done = succeed(*words, **where)
    assert "trackio show --project side-by-side" in done.stdout
    logged = json.loads(succeed("python", "-c", LOGGED, "side-by-side", **where).stdout.splitlines()[-1])
    assert sorted(logged) == ["comparison", "one", "two"]
    curves, config = logged["two"]
    assert [entry["val_bits_per_byte"] for entry in curves] == [2.0, 1.2]
    assert [entry["tokens"] for entry in curves] == [100, 200] and curves[1]["hours"] == pytest.approx(2 / 3600)
    assert config["model.depth"] == "2" and config["hidden_size"] == "32"
    report = logged["comparison"][0][0]
    assert {"comparison", "report"} <= set(report)
    assert all("flops" in entry and "hours" in entry for name in logged for entry in logged[name][0])  # else no chart
    rows = report["Where the runs stand"]["_value"]
    assert [row["bits per byte"].strip() for row in rows] == ["1.5000", "1.2000*"]


@pytest.mark.slow
def test_stages_of_the_tiny_run_are_compared(tiny_run, tmp_path):
    folder, _ = tiny_run
    done = succeed("hfgpt", "compare", folder / "pretrain", folder / "midtrain", "--output", tmp_path / "life.png")
    final = json.loads((folder / "pretrain" / "final_metrics.json").read_text())
    row = next(line for line in done.stdout.splitlines() if line.startswith("| pretrain "))
    assert f"{final['val_bits_per_byte']:.4f}" in row and "complete" in row
    assert "midtrain reached pretrain's last" in done.stdout or "midtrain never reached" in done.stdout
    assert (tmp_path / "life.png").stat().st_size > 30_000
