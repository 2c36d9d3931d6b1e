"""A sweep's report gives back the laws that its runs were made from, and says what it cannot fit."""

import csv
import json
import math

import pytest
from run_folders import architecture, write_stage

from hfgpt.report.scaling import analyse, scaling_lines
from hfgpt.report.sweep_report import write_sweep_report
from hfgpt.report.sweep_results import read_sweep_run
from hfgpt.training.budget import flops_per_token, scaling_parameters

WIDTHS = (16, 32, 64, 128, 256)


def best_size(flops: float) -> float:
    return 0.35 * flops**0.5


def bits_per_byte(size: float, flops: float) -> float:
    return 0.6 + 30 * flops**-0.15 + 0.04 * math.log(size / best_size(flops)) ** 2


def sweep_run(root, width: int, flops: float, **others):
    """A run whose loss follows the law above, as its folder says."""
    shape = architecture(hidden_size=width)
    size, each = scaling_parameters(shape), flops_per_token(shape, 128)
    settings = {"hidden_size": width, "target_flops": flops, **others}
    name = "_".join(f"{key}-{value}" for key, value in settings.items())
    loss = bits_per_byte(size, flops) + others.get("seed", 0) * 0.001 + 0.1 * (others.get("mlp_type") == "gelu")
    record = {
        "step": 1,
        "tokens": flops / each,
        "flops": flops,
        "seconds": 1.0,
        "loss": 2.0,
        "val_bits_per_byte": loss,
    }
    early = record | {"tokens": flops / each / 4, "flops": flops / 4, "val_bits_per_byte": loss * 1.3}
    return read_sweep_run(name, settings, write_stage(root / name / "pretrain", [early, record], shape=shape))


def test_parabolas_of_equal_flops_give_the_best_sizes_and_the_laws(tmp_path):
    budgets = [1e11, 1e12, 1e13, 1e14]
    widths = {1e11: WIDTHS[:4], 1e12: WIDTHS[1:], 1e13: WIDTHS[2:] + (512,), 1e14: (128, 256, 512, 768)}
    runs = [sweep_run(tmp_path, width, flops) for flops in budgets for width in widths[flops]]
    (series,) = analyse(runs)
    for budget in series.budgets:
        assert budget.parabola.best_size == pytest.approx(best_size(budget.flops), rel=1e-3)
        each = budget.flops / budget.tokens_at_best / budget.parabola.best_size  # FLOPs per token and weight
        assert 6 < each < 16
    assert series.size_law.exponent == pytest.approx(0.5, abs=1e-3)
    assert 0.45 < series.tokens_law.exponent < 0.6
    assert series.loss_law.exponent == pytest.approx(-0.15, abs=0.002)
    assert series.loss_law.floor == pytest.approx(0.6, abs=0.02)
    report = write_sweep_report(runs, {}, tmp_path, "hfgpt sweep ...").read_text()
    assert "best size = 0.35" in report and "FLOPs^0.500" in report and "FLOPs^-0.15" in report
    for name in ("isoflop.png", "scaling.png"):
        assert f"({name})" in report
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG") and (tmp_path / name).stat().st_size > 20_000
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(runs) == 16
    assert float(rows[0]["val_bits_per_byte"]) == pytest.approx(runs[0].losses["val_bits_per_byte"])
    assert float(rows[0]["tokens_per_scaling_parameter"]) == runs[0].tokens / runs[0].scaling_parameters


def test_few_runs_get_a_table_and_the_reasons_why_nothing_is_fitted(tmp_path):
    runs = [sweep_run(tmp_path, width, flops) for flops in (1e11, 1e12) for width in (16, 32)]
    report = write_sweep_report(runs, {"hidden_size-64": "it broke."}, tmp_path, "hfgpt sweep ...").read_text()
    assert report.count("no best size: 2 sizes at equal FLOPs, and a fit needs at least 3") == 2
    assert "no fit of loss over FLOPs: 2 amounts of compute, and a fit needs at least 4" in report
    assert "no fit of best size over FLOPs: 0 points, and a fit needs at least 3" in report
    assert "FLOPs^" not in report
    assert "hidden_size-64 failed: it broke." in report
    results = json.loads((tmp_path / "sweep.json").read_text())
    assert results["kind"] == "sweep" and results["scaling"][0]["loss_law"] is None and len(results["runs"]) == 4


def test_seeds_are_averaged_and_other_keys_make_a_series_each(tmp_path):
    runs = [
        sweep_run(tmp_path, width, 1e12, seed=seed, mlp_type=mlp)
        for width in (64, 128, 256)
        for seed in (0, 2)
        for mlp in ("relu2", "gelu")
    ]
    series = analyse(runs)
    assert [one.label for one in series] == ["mlp_type relu2", "mlp_type gelu"]
    assert [len(one.points) for one in series] == [3, 3]
    relu2, gelu = (one.budgets[0].parabola for one in series)
    truth = bits_per_byte(best_size(1e12), 1e12) + 0.001  # the mean of both seeds
    assert relu2.lowest == pytest.approx(truth, abs=1e-4)
    assert gelu.lowest == pytest.approx(truth + 0.1, abs=1e-4)
    assert any(line.startswith("mlp_type gelu: at 1.00e+12 FLOPs the best size is") for line in lines_of(series))


def lines_of(series):
    return scaling_lines(series, "val_bits_per_byte")


def test_sizes_each_trained_to_its_own_length_make_one_law_of_all_runs(tmp_path):
    runs = []
    for number, flops in enumerate((1e11, 1e12, 1e13, 1e14, 1e15)):
        run = sweep_run(tmp_path, WIDTHS[number], flops)
        run.settings.pop("target_flops")
        run.losses["val_bits_per_byte"] = 0.6 + 30 * flops**-0.15
        runs.append(run)
    (series,) = analyse(runs)
    assert series.budgets == [] and series.size_law is None
    assert series.loss_law.exponent == pytest.approx(-0.15, abs=0.002) and series.loss_law.points == 5


def test_of_several_lengths_only_the_frontier_makes_the_law(tmp_path):
    runs = []
    for flops in (1e11, 1e12, 1e13, 1e14):
        for width, extra in ((32, 0.0), (128, 0.3)):
            run = sweep_run(tmp_path, width, flops)
            run.settings["max_steps"] = run.settings.pop("target_flops")
            run.losses["val_bits_per_byte"] = 0.6 + 30 * flops**-0.15 + extra
            runs.append(run)
    (series,) = analyse(runs)
    assert len(series.points) == 8 and series.loss_law.points == 4
    assert series.loss_law.exponent == pytest.approx(-0.15, abs=0.002)
