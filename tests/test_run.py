"""`hfgpt run`: the stages of a recipe in order, in real processes; what is complete is passed over, a failure says how
to go on."""

import json
import os
import platform

import pytest
from commands import run, sentence_of_failure, succeed
from run_folders import falling_records, write_stage

from hfgpt.run import _flags_for, _leakage, split_token, with_token_aside

SMALL = """\
model: {depth: 2, hidden_size: 64}
tokenizer: {vocab_size: 400}
data: {dataset: tinyworld, tinyworld_documents: 300, tinyworld_conversations: 200, max_length: 128, num_proc: 1}
pretrain: {max_steps: 2, total_batch_size: 512, per_device_train_batch_size: 4, sample_steps: 0, eval_strategy: "no"}
sft: {max_steps: 2, per_device_train_batch_size: 4, sample_max_new_tokens: 4, eval_tasks: [tinyworld_chat_sums],
  eval_tasks_limit: 4}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.mark.slow
def test_stages_run_in_order_and_a_failure_says_how_to_go_on(recipe, tmp_path):
    where = ("--output_root", tmp_path / "runs")
    secret = ("--sft.hub-token", "hf_secret")
    failed = run("hfgpt", "run", recipe, *where, *secret, "--sft.data_path", tmp_path / "missing.jsonl")
    assert failed.returncode == 2
    assert "missing.jsonl" in failed.stderr and "Traceback" not in failed.stderr
    assert "sft stopped with exit code 2; go on with: hfgpt run" in failed.stderr and "--from sft" in failed.stderr
    assert "hf_secret" not in failed.stdout + failed.stderr
    assert (tmp_path / "runs" / "small" / "pretrain" / "final_metrics.json").is_file()

    done = succeed("hfgpt", "run", recipe, *where, "--sft.warmup_steps", "1")
    assert "pretrain: complete" in done.stdout and "passed over" in done.stdout
    assert "| answers a sum" in done.stdout and "| sft" in done.stdout.replace(" ", "").replace("|sft", "| sft")
    assert (tmp_path / "runs" / "small" / "report" / "abilities.md").is_file()
    assert "leakage in" in done.stdout and "of 121 questions overlap" in done.stdout
    assert "## Leakage" in (tmp_path / "runs" / "small" / "report" / "report.md").read_text()
    plan = json.loads((tmp_path / "runs" / "small" / "sft" / "plan.json").read_text())
    assert (plan["by"], plan["steps"]) == ("max_steps", 2) and plan["tokens"] > 0 and plan["flops"] > plan["tokens"]
    noted = json.loads((tmp_path / "runs" / "small" / "pretrain" / "environment.json").read_text())
    assert noted["torch"] and noted["processes"] == "1" and platform.node() not in noted.values()
    assert "warmup_steps: 1" in (tmp_path / "runs" / "small" / "sft" / "recipe.yaml").read_text()

    stale = run("hfgpt", "run", recipe, *where, "--until", "pretrain", "--overwrite")
    assert stale.returncode == 0 and "sft" not in stale.stdout.split("pretrain:")[0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--from", "dpo"), "--from dpo: the stages of"),
        (("--from", "sft", "--until", "pretrain"), "comes after"),
        (("--learning_rate", "1"), "write --pretrain.learning_rate, --sft.learning_rate"),
        (("--until",), "--until needs a value"),
        (("--accelerate_config", "nowhere.yaml"), "nowhere.yaml does not exist"),
        (("--depht", "3"), "flag --depht"),
    ],
)
def test_a_mistake_is_said_before_anything_runs(recipe, tmp_path, flags, words):
    assert words in sentence_of_failure("hfgpt", "run", recipe, "--output_root", tmp_path / "runs", *flags)
    assert not (tmp_path / "runs").exists()


def test_a_recipe_without_a_stage_is_refused(tmp_path):
    (tmp_path / "empty.yaml").write_text("model: {depth: 2}\n")
    assert "names no stage" in sentence_of_failure("hfgpt", "run", tmp_path / "empty.yaml")


def test_a_shared_flag_reaches_every_stage_as_the_key_of_its_section():
    words = ["tiny", "--data_path", "a.txt", "--overwrite", "--sft.max_steps", "3", "--max_length", "64"]
    shared = ["tiny", "--data.data_path", "a.txt", "--overwrite"]
    assert _flags_for("dpo", words) == [*shared, "--data.max_length", "64"]
    assert _flags_for("sft", words) == [*shared, "--sft.max_steps", "3", "--data.max_length", "64"]


@pytest.mark.parametrize("given", [["--hub_token", "hf_x"], ["--sft.hub-token=hf_x"], ["--sft.hub_token", "hf_x"]])
def test_a_token_is_in_no_command_that_is_printed_kept_or_given_to_a_stage(given):
    words = ["tiny", "--sft.max_steps", "3", *given, "--data.seed", "1"]
    assert split_token(words) == (["tiny", "--sft.max_steps", "3", "--data.seed", "1"], "hf_x")
    of_the_stage, environment = with_token_aside("sft", words)
    assert of_the_stage[-2:] == ["--sft.hub_token", "null"] and environment["HF_TOKEN"] == "hf_x"
    assert not any("hf_x" in word for word in of_the_stage)
    without = ["tiny", "--sft.hub_token", "null"]
    assert with_token_aside("sft", without) == (without, dict(os.environ))


def test_leakage_in_much_data_is_left_to_who_asks_for_it(tmp_path):
    stage = write_stage(tmp_path / "large" / "pretrain", falling_records([10**9, 3 * 10**9], [1.5, 1.0]))
    (stage / "identity.json").write_text('{"rows": "0123456789abcdef"}')
    assert _leakage(tmp_path / "large").startswith("leakage not measured: 3B tokens to read; hfgpt leakage ")
