"""`hfgpt bench`: every side trains and decodes in turns on a small shape, and the report says what was measured."""

import json
import os
from pathlib import Path

import pytest
from commands import run, sentence_of_failure

from hfgpt.bench.report import interval_of_median, side_figures, trainer_overhead, write_report
from hfgpt.recipe import load_recipe
from hfgpt.training.accelerators import find_accelerator
from hfgpt.training.cost import utilization

SHAPE = ["--depth", "2", "--hidden_size", "64", "--vocab_size", "512", "--max_length", "64"]
BATCH = ["--per_device_train_batch_size", "2", "--total_batch_size", "256"]
QUICK = ["--steps", "4", "--rounds", "2", "--decode_tokens", "8"]
MISSING = ("trl", "datasets", "lm_eval", "typer", "rich", "gradio", "evaluate", "tiktoken", "matplotlib")


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict:
    """The report of three sides, in processes where only torch, transformers and accelerate can be imported."""
    folder = tmp_path_factory.mktemp("bench")
    names = ", ".join(map(repr, MISSING))
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys([{names}]))\n")
    done = run(
        *("python", "-m", "hfgpt.bench", "recipes/tiny.yaml", *SHAPE, *BATCH, *QUICK),
        *("--vs", "loop", "trainer", "--output_dir", folder),
        PYTHONPATH=str(folder),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Trainer's overhead over the bare loop" in done.stdout
    (path,) = folder.glob("bench-tiny-vs-loop-trainer-*.json")
    page = path.with_suffix(".md").read_text()
    made = json.loads(path.read_text())
    assert made["command"] in page and all(number in page for number in made["versions"].values())
    return made


@pytest.mark.slow
def test_every_side_trains_the_same_shape_and_batch_and_decodes(report):
    assert (
        report["kind"] == "bench"
        and report["recipe"] == "tiny"
        and list(report["sides"]) == ["hfgpt", "loop", "trainer"]
    )
    assert report["tokens_per_step"] == 64 * 2 * 2
    for side in report["sides"].values():
        assert len(side["seconds_per_step_by_round"]) == 2
        assert side["tokens_per_second"] == pytest.approx(256 / side["seconds_per_step"])
        assert set(side["decode_tokens_per_second"]) == {"1", "16"}
        assert side["peak_memory_bytes"] > 10**8
    sides = report["sides"]
    assert sides["hfgpt"]["parameters"] == sides["loop"]["parameters"] == report_parameters()
    assert sides["trainer"]["model"] == "GPT2LMHeadModel" and "adamw" in sides["trainer"]["optimizer"]
    assert report["tokens_per_second"] == sides["hfgpt"]["tokens_per_second"]


def report_parameters() -> int:
    from hfgpt.model.from_recipe import architecture_of
    from hfgpt.training.budget import count_parameters

    recipe = load_recipe(["recipes/tiny.yaml", *SHAPE])
    return count_parameters(architecture_of(recipe.model, recipe.tokenizer.vocab_size, recipe.data.max_length)).total


def test_mfu_is_left_out_where_the_peak_is_unknown_and_else_is_flops_over_peak():
    about = {"flops_per_token": 6_000}
    figures = dict(first_turn_seconds=1.0, tokens_per_step=1000)
    rounds = [(0.5, 0.4), (0.25, 0.2), (0.5, 0.4)]
    unknown = side_figures(rounds, {}, about, peak_flops=None, **figures)
    known = side_figures(rounds, {1: [], 16: [3.0, 9.0, 4.0]}, about, peak_flops=1e8, **figures)
    assert "mfu" not in unknown
    assert known["mfu"] == pytest.approx(1000 * 6_000 / 0.5 / 1e8)
    assert known["decode_tokens_per_second"] == {"16": 4.0}


def test_overhead_compares_the_sides_round_by_round():
    def side(*rounds):
        return side_figures(
            [(wall, 2 * wall) for wall in rounds],
            {},
            {"flops_per_token": 1},
            first_turn_seconds=0,
            tokens_per_step=1,
            peak_flops=None,
        )

    sides = {"hfgpt": side(1.02, 2.06, 4.00), "loop": side(1.0, 2.0, 4.0)}  # the machine slowed down for both
    overhead = trainer_overhead(sides, with_cpu_time=True)
    assert overhead["time"]["median"] == pytest.approx(0.02) and overhead["time"]["highest"] == pytest.approx(0.03)
    assert overhead["CPU time"]["median"] == pytest.approx(0.02)
    assert overhead["time"]["low_95"] == overhead["time"]["lowest"]  # three rounds say no more
    assert interval_of_median([float(i) for i in range(100)]) == (40.0, 59.0)
    assert set(trainer_overhead(sides, with_cpu_time=False)) == {"time"}


def test_a_plan_takes_its_mfu_from_the_report(tmp_path):
    h100 = find_accelerator("H100")
    report = {"kind": "bench", "recipe": "d12", "device": "NVIDIA H100 80GB HBM3", "mfu": 0.52}
    (tmp_path / "bench-d12-nvidia-h100-80gb-hbm3.json").write_text(json.dumps(report))
    changed = report | {"recipe_changes": ["--depth", "4"], "mfu": 0.11}
    (tmp_path / "later.json").write_text(json.dumps(changed))
    used = utilization(h100, recipe="d12", benchmarks=tmp_path)
    assert used.mfu == 0.52 and used.is_measured
    assert utilization(h100, recipe="d20", benchmarks=tmp_path).mfu == 0.11  # no figure of its own: the newest


@pytest.mark.slow
def test_a_report_takes_the_place_of_none_of_other_sides_or_of_a_changed_recipe(report, tmp_path):
    one_side = report | {"sides": {"hfgpt": report["sides"]["hfgpt"]}, "recipe_changes": []}
    names = [write_report(made, tmp_path)[0].name for made in (report, one_side, report)]
    assert names[0] == names[2] != names[1]
    changed = write_report(report | {"recipe_changes": ["--depth", "3"]}, tmp_path)[0].name
    assert changed not in names and len(list(tmp_path.iterdir())) == 6


@pytest.mark.slow
def test_an_optimizer_of_hfs_trains_at_the_rate_that_follows_from_the_shape(tmp_path):
    optim = ("--optim", "galore_adamw", "--optim_target_modules", "mlp", "--optim_args", "rank=8")
    done = run(
        *("hfgpt", "bench", "recipes/tiny.yaml", *SHAPE, *BATCH, *optim, "--vs", "loop"),
        *("--steps", "2", "--rounds", "1", "--decode_tokens", "0", "--output_dir", tmp_path),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = tmp_path.glob("*.json")
    assert {side["optimizer"] for side in json.loads(path.read_text())["sides"].values()} == {"galore_adamw"}


@pytest.mark.slow
def test_nanochats_own_model_optimizer_and_engine_are_a_side(tmp_path):
    checkout = Path(os.environ.get("NANOCHAT", "../nanochat"))
    if not (checkout / "nanochat" / "gpt.py").is_file():
        pytest.skip("needs a checkout of github.com/karpathy/nanochat at ../nanochat or where NANOCHAT says")
    done = run(
        *("hfgpt", "bench", "recipes/tiny.yaml", *SHAPE, *BATCH, *QUICK),
        *("--vs", "nanochat", "--nanochat", checkout, "--output_dir", tmp_path),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = tmp_path.glob("*.json")
    side = json.loads(path.read_text())["sides"]["nanochat"]
    assert side["model"].startswith("nanochat") and side["optimizer"] == "MuonAdamW" and side["compiled"]
    assert side["tokens_per_second"] == pytest.approx(256 / side["seconds_per_step"])
    assert set(side["decode_tokens_per_second"]) == {"1", "16"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--vs", "llama"], "--vs llama"),
        (["--vs", "nanochat"], "--nanochat DIR"),
        (["--nanochat", "recipes"], "recipes is not a checkout of nanochat"),
        (["--steps", "2", "--rounds", "3"], "--rounds 3"),
        (["--max_lenght", "64"], "max_lenght"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(flags, words):
    assert words in sentence_of_failure("python", "-m", "hfgpt.bench", "recipes/tiny.yaml", *SHAPE, *BATCH, *flags)
