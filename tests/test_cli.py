"""The command line is quick where nothing heavy is needed, and every recipe that ships has a plan."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hfgpt.cli import main
from hfgpt.recipe import STAGES

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
HEAVY = {"torch", "transformers", "datasets", "trl", "lm_eval", "matplotlib"}


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["plan", "tiny"], ["data", "download", "--help"]])
def test_light_commands_import_nothing_heavy(words):
    code = f"import sys, hfgpt.cli; hfgpt.cli.main({words!r}); print('IMPORTED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = done.stdout.rpartition("IMPORTED")[2].split()
    assert len(imported) > 50 and not HEAVY & set(imported)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_has_a_plan(path, capsys):
    assert main(["plan", str(path), "--num_gpus", "1", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["parameters"]["total"] == sum(n for name, n in plan["parameters"].items() if name != "total")
    assert plan["tokens_per_step"] == plan["max_length"] * plan["per_device_batch_size"] * plan["grad_accum_steps"]
    assert plan["steps"] is None or plan["tokens"] == plan["steps"] * plan["tokens_per_step"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_key_of_every_recipe_is_one_that_its_stage_takes_and_is_commented(path):
    from hfgpt.data.mixture_sources import sources_of
    from hfgpt.recipe import load_recipe
    from hfgpt.training.arguments import MidtrainArguments, PretrainArguments
    from hfgpt.training.chat_arguments import DpoArguments, GrpoArguments, SftArguments

    classes = (PretrainArguments, MidtrainArguments, SftArguments, DpoArguments, GrpoArguments)
    for stage, arguments_class in zip(STAGES, classes, strict=True):
        recipe = load_recipe([str(path)], stage, arguments_class)
        if stage in recipe.sections:
            section = recipe.section(stage, arguments_class, output_dir="unused", use_cpu=True)
        if stage == "midtrain" and stage in recipe.sections:
            assert sum(weight for _, weight in sources_of(section.mixture, recipe.data, "mixture")) == pytest.approx(1)
    assert {"pretrain", "sft"} <= set(recipe.sections)
    text = path.read_text()
    assert text.startswith(f"# {path.stem}: ")
    keys = [line for line in text.splitlines() if re.match(r"  \w+:", line)]
    assert len(keys) == sum(len(section) for section in recipe.sections.values())
    assert not [line for line in keys if " # " not in line]


def test_the_plan_of_a_training_command_is_the_command_with_another_word(capsys):
    flags = ["recipes/d12.yaml", "--per_device_eval_batch_size", "4", "--total_batch_size", "65536", "--bf16", "true"]
    assert main(["plan", *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens_per_step"] == 65536


def test_a_mistyped_command_or_key_ends_with_code_2(capsys):
    assert main(["plna"]) == 2
    assert "plan" in capsys.readouterr().err
    assert main(["plan", "recipes/d12.yaml", "--lerning_rate", "1"]) == 2
    assert "--learning_rate" in capsys.readouterr().err
