"""`hfgpt plan`: what it says adds up, what is not known is left out, and what cannot be is refused in one sentence."""

import json

import pytest

from hfgpt.cli import main
from hfgpt.data.tokenizer import train_tokenizer


@pytest.fixture
def plan(capsys, tmp_path, monkeypatch):
    """Run `hfgpt plan WORDS --json` where there are no benchmarks, and return what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> dict:
        assert main(["plan", *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_hours_and_dollars_follow_from_flops_peak_mfu_and_price(plan):
    made = plan("d20", "--gpu", "H100", "--num_gpus", "8", "--price", "3.0", "--mfu", "0.5")
    assert made["hours"] == pytest.approx(made["flops"] / (8 * 989e12 * 0.5) / 3600)
    assert made["gpu_hours"] == pytest.approx(8 * made["hours"])
    assert made["dollars"] == pytest.approx(3.0 * made["gpu_hours"])
    assert made["mfu_source"] == "given by --mfu"


def test_what_is_not_known_is_none_and_not_in_the_text(plan, capsys):
    made = plan("d20")
    assert made["gpu"] is made["hours"] is made["dollars"] is made["mfu"] is None
    assert plan("d20", "--gpu", "H100")["dollars"] is None
    assert main(["plan", "d20", "--gpu", "H100"]) == 0
    text = capsys.readouterr().out
    assert "ASSUMPTION" in text and "hours" in text and "$" not in text


def test_a_figure_that_bench_measured_on_that_gpu_takes_the_place_of_the_assumption(plan, tmp_path):
    (tmp_path / "benchmarks").mkdir()
    measured = {"kind": "bench", "device": "NVIDIA H100 80GB HBM3", "recipe": "d20", "mfu": 0.47}
    (tmp_path / "benchmarks" / "d20.json").write_text(json.dumps(measured))
    assert plan("d20", "--gpu", "H100")["mfu"] == 0.47
    assert plan("d20", "--gpu", "A100")["mfu"] == 0.40


def test_the_methods_say_the_same_length_each_in_its_own_key(plan):
    made = plan("d12", "--max_steps", "1000")
    same = made["same_length"]
    by_ratio = plan("d12", "--target_param_data_ratio", same["target_param_data_ratio"])
    by_flops = plan("d12", "--target_flops", same["target_flops"])
    # With another ratio the dial would choose another batch: tokens are what must agree.
    assert by_ratio["tokens"] == pytest.approx(made["tokens"], rel=0.002)
    assert by_flops["tokens"] == pytest.approx(made["tokens"], rel=0.002)


def test_memory_is_shown_under_every_way_to_train_with_the_batch_that_fits(plan):
    rows = {row["name"]: row for row in plan("d20", "--gpu", "H100", "--num_gpus", "8")["memory"]}
    assert set(rows) == {way + extra for way in ("ddp", "fsdp2") for extra in ("", " + checkpointing", " + fp8")}
    assert [name for name, row in rows.items() if row["is_recipe"]] == ["ddp"]
    largest = {name: row["largest_per_device_batch_size"] for name, row in rows.items()}
    assert largest["ddp + checkpointing"] > largest["fsdp2"] > largest["ddp"] > 0
    alone = [row["name"] for row in plan("d20", "--gpu", "A100")["memory"]]
    assert alone == ["one GPU", "one GPU + checkpointing"]  # no other GPU to share with, and no fp8 units
    small = plan("laptop-6gb", "--gpu_memory", "6")["memory"]
    assert [row["name"] for row in small if row["is_recipe"]] == ["one GPU + checkpointing"]
    assert all(row["largest_per_device_batch_size"] >= 4 for row in small)


def test_a_budget_names_depth_and_tokens_and_its_plan_costs_what_it_was(plan):
    best = plan("--budget", "100", "--gpu", "H100", "--price", "3.0")["offers"][0]
    words = ["d20", "--depth", str(best["depth"]), "--target_param_data_ratio", str(best["ratio"])]
    made = plan(*words, "--gpu", "H100", "--price", "3.0")
    assert made["dollars"] == pytest.approx(100, rel=0.001)
    assert made["tokens"] == pytest.approx(best["tokens"], rel=0.001)


def test_the_vocabulary_is_that_of_the_tokenizer_that_is_named(plan, tmp_path, capsys):
    tokenizer = train_tokenizer(["one two three " * 50], 300)
    tokenizer.save_pretrained(tmp_path / "mine")
    named = ["--tokenizer.name_or_path", str(tmp_path / "mine")]
    assert plan("d12", *named)["parameters"] == plan("d12", "--vocab_size", str(len(tokenizer)))["parameters"]
    elsewhere = ["--tokenizer.name_or_path", "someone/never-fetched"]
    assert main(["plan", "d12", *elsewhere]) == 2
    assert "someone/never-fetched has not been downloaded yet" in capsys.readouterr().err
    for name in ("./nowhere", "a/b/c", "not valid!"):
        assert main(["plan", "d12", "--tokenizer.name_or_path", name]) == 2
        assert f"{name} is neither a folder nor a Hub id" in capsys.readouterr().err
    assert plan("d12", *elsewhere, "--vocab_size", "5000") == plan("d12", "--vocab_size", "5000")


def test_rates_that_the_recipe_leaves_open_are_scaled(plan):
    rates = plan("d12", "--rate_scale", "0.5", "--head_learning_rate", "0.1")["rates"]
    assert (rates["learning_rate"], rates["head_learning_rate"]) == (0.01, 0.1)


def test_muons_rate_waits_for_the_length_and_is_not_raised_for_a_trained_model(plan, capsys):
    short = ("tiny", "--max_steps", "100", "--total_batch_size", "8192")
    assert plan(*short)["rates"]["learning_rate"] == pytest.approx(0.04)
    assert plan(*short, "--model_name_or_path", "somewhere")["rates"]["learning_rate"] == 0.02
    assert main(["plan", "tiny"]) == 0  # whose length is in epochs of rows that are not there yet
    assert "learning 0.02 (more if steps turn out few and large)" in capsys.readouterr().out
    assert main(["plan", *short]) == 0
    assert "more if steps" not in capsys.readouterr().out


GALORE = ("--optim", "galore_adamw", "--optim_args", "rank=64", "--optim_target_modules")


def test_galore_keeps_less_of_the_linears_it_is_given_and_every_linear_has_a_name(plan):
    def state(*words: str) -> int:
        return plan("gpt2", "--max_steps", "10", *words)["state_bytes"]["optimizer"]

    adamw, attention, every = (
        state("--optim", "adamw_torch"),
        state(*GALORE, "self_attn"),
        state(*GALORE, "all-linear"),
    )
    assert every < attention < adamw
    assert every == state(*GALORE, "self_attn", "mlp") == state(*GALORE, r".*(attn|mlp)\..*")  # the head is tied


def test_what_an_optimizer_of_hfs_keeps_is_counted_as_adamws_and_said(capsys):
    assert main(["plan", "gpt2", "--max_steps", "10", "--optim", "sgd", "--optim_args", "momentum=0.9"]) == 0
    assert "(sgd counted as AdamW)" in capsys.readouterr().out


def test_a_budget_buys_no_model_that_the_gpu_cannot_hold(plan, capsys):
    money = ["--budget", "30000", "--gpu", "H100", "--price", "3.0"]
    alone, small, shared = (
        plan(*money, *more)["offers"][0] for more in ([], ["--gpu_memory", "24"], ["--num_gpus", "8"])
    )
    assert small["depth"] < alone["depth"] < shared["depth"] and small["most_rows"] >= 1
    assert small["ratio"] > 12 and small["gpu_hours"] == alone["gpu_hours"]  # the money goes into tokens
    assert plan(*money, "--gpu_memory", "24", "--depth", str(alone["depth"]))["offers"][0]["most_rows"] == 0
    assert main(["plan", *money, "--gpu_memory", "0.01"]) == 2
    assert "not even one layer fits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--budget", "100"], "--budget needs --gpu"),
        (["--budget", "100", "--gpu", "H100", "--price", "0"], "price must be above zero"),
        (["gpt2", "--budget", "100", "--gpu", "H100"], "model.preset fixes the size"),
        (["tiny", "--budget", "100", "--gpu", "H100"], "model.hidden_size fixes the size"),
        (["d12", "--gpu", "H900"], "--gpu H900 is not known; known are A100"),
        (["d12", "--gpu", "H100", "--mfu", "40"], "mfu is a share of the peak"),
        (["d12", "--gpu", "H100", "--use_cpu"], "leave out one of them"),
        (["gpt2", *GALORE, "*attn"], "optim_target_modules: *attn is no pattern"),
        (["gpt2", *GALORE, "nowhere"], "the model has no linear by"),
        (["d12", "--num_gpus", "0"], "num_gpus must be above zero"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_sentence(words, sentence, capsys):
    assert main(["plan", *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.strip().splitlines()) == 1
