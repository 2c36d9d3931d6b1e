"""Refusals of real processes: the code that a shell sees, one sentence on stderr and nothing of Python's."""

import shutil

import pytest
from commands import run
from damage import cut
from refusals import contents, harm, names, sentence_in

# Words after the program, and what the sentence must name. These import nothing heavy: about a second each.
LIGHT: list[tuple[str, tuple[str, ...]]] = [
    ("hfgpt plna", ("plna", "plan")),
    ("hfgpt plan nowhere.yaml", ("nowhere.yaml",)),
    ("hfgpt plan broken.yaml", ("broken.yaml:2", "tabs")),
    ("hfgpt plan small.yaml --depth 0", ("depth",)),
    ("hfgpt plan small.yaml --gpu Voodoo2", ("Voodoo2",)),
    ("hfgpt run small.yaml --from never", ("--from", "never")),
    ("hfgpt data push small.yaml", ("--repo_id",)),
    ("hfgpt data download -n 0", ("-n",)),
    ("python -m hfgpt.dataset -n some", ("some",)),
    ("hfgpt chat nowhere/at/all", ("nowhere/at/all",)),
    ("hfgpt serve . --host 0.0.0.0", ("0.0.0.0",)),
    ("hfgpt compare one", ("two runs",)),
    ("hfgpt report nowhere", ("nowhere",)),
]
# And these the whole stack.
HEAVY: list[tuple[str, tuple[str, ...]]] = [
    ("hfgpt pretrain small.yaml --learning_ra 5", ("--learning_ra", "--learning_rate")),
    ("python -m hfgpt.pretrain small.yaml --optim muonn", ("optim", "muonn")),
    ("python -m hfgpt.sft nowhere.yaml", ("nowhere.yaml",)),
    ("hfgpt grpo small.yaml", ("grpo", "dpo")),
    ("hfgpt data prepare small.yaml --data_path cut.jsonl --num_proc 1", ("cut.jsonl", "line 2")),
    ("hfgpt tokenizer train small.yaml --name_or_path ./tokens", ("tokens",)),
    ("hfgpt chat model --prompt Hi", ("model",)),
    ("hfgpt eval model --tasks tinyworld_facts --limit 1 --no_cache --cache_dir cache", ("model",)),
    ("python -m hfgpt.eval model --limit 0", ("--limit",)),
]


@pytest.mark.parametrize(("words", "culprits"), LIGHT, ids=[words for words, _ in LIGHT])
def test_a_light_command_is_refused(here, words, culprits):
    _check(here, words, culprits)


@pytest.mark.slow
@pytest.mark.parametrize(("words", "culprits"), HEAVY, ids=[words for words, _ in HEAVY])
def test_a_command_of_the_whole_stack_is_refused(here, pretrained, words, culprits):
    shutil.copytree(pretrained / "pretrain", here / "model", ignore=shutil.ignore_patterns("checkpoint-*"))
    cut(here / "model" / "model.safetensors")
    shutil.copytree(pretrained / "tokenizer", here / "tokens")
    cut(here / "tokens" / "tokenizer.json")
    _check(here, words, culprits)


def _check(here, words: str, culprits: tuple[str, ...]) -> None:
    (here / "broken.yaml").write_text("model:\n\tdepth: 2\n")
    (here / "cut.jsonl").write_text('{"text": "one"}\n{"text": \n')
    before = contents(here)
    done = run(*words.split(), folder=here)
    assert done.returncode == 2, f"exit code {done.returncode}"
    names(sentence_in(done.stderr), culprits)
    assert not harm(before, contents(here))


def test_debug_shows_where_a_refusal_came_from(here):
    done = run("hfgpt", "plan", "small.yaml", "--depth", "0", "--debug", folder=here)
    assert done.returncode != 0 and "Traceback" in done.stderr and "UserError" in done.stderr
