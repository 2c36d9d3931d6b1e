"""A flag or a word on the command line that is wrong is named, by every command that there is."""

import pytest
import typer

from hfgpt.cli import app


def commands(group: typer.Typer, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command of the program: ("data", "prepare")."""
    own = [(*before, str(command.name)) for command in group.registered_commands]
    for inner in group.registered_groups:
        own += commands(inner.typer_instance, (*before, str(inner.name)))
    return own


COMMANDS = commands(app)
# What a command needs before it looks at flags, where that is not a recipe or a folder.
NEEDED = {
    ("sweep",): ["small.yaml", "--depth", "2", "3"],
    ("doctor",): [],
    ("data", "download"): [],
    **{(name,): [".", "--output_dir", "out"] for name in ("space", "import", "export")},
}


def test_every_command_is_found():
    assert len(COMMANDS) >= 22 and ("data", "prepare") in COMMANDS and ("pretrain",) in COMMANDS


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_refuses_a_flag_that_it_does_not_know(refused, command):
    refused([*command, *NEEDED.get(command, ["small.yaml"]), "--no_such_flag", "7"], "no_such_flag")


FLAGS: list[tuple[str, tuple[str, ...]]] = [
    # The program itself.
    ("plna", ("plna", "plan")),
    ("pretrian small.yaml", ("pretrian", "pretrain")),
    ("data prepair", ("prepair", "prepare")),
    ("--no_such_flag", ("no_such_flag",)),
    ("--versoin", ("versoin",)),
    # Words of a recipe's commands.
    ("plan nowhere.yaml", ("nowhere.yaml", "tiny")),
    ("plan recipes/tinny.yaml", ("tinny", "tiny")),
    ("plan .", (".", "folder")),
    ("plan small.yaml extra", ("extra", "flag")),
    ("plan small.yaml small.yaml", ("small.yaml", "flag")),
    ("plan small.yaml --lerning_rate 1", ("--lerning_rate", "--learning_rate")),
    ("plan small.yaml --modle.depth 1", ("modle", "model")),
    ("plan small.yaml --model.dept 1", ("model", "dept", "depth")),
    ("plan small.yaml --sft.learning_rate 1", ("sft",)),
    ("plan small.yaml --depth", ("depth", "whole number")),
    ("plan small.yaml --depth four", ("--depth", "whole number", "four")),
    ("plan small.yaml --depth=", ("--depth", "whole number")),
    ("plan small.yaml --depth 2 3", ("--depth", "whole number")),
    ("plan small.yaml --hidden_size 1e400", ("--hidden_size", "whole number")),
    ("plan small.yaml --max_steps 99e9999", ("--max_steps", "whole number")),
    ("plan small.yaml --vocab_size 0x10", ("--vocab_size", "whole number")),
    ("plan small.yaml --layer_types [full_attention", ("layer_types",)),
    ("plan small.yaml --columns {text: body", ("columns",)),
    ("plan small.yaml --columns text", ("columns", "map")),
    ("plan small.yaml ---depth 3", ("-depth",)),
    ("plan small.yaml --model. 3", ("model",)),
    ("plan small.yaml --.depth 3", ("depth",)),
    ("plan small.yaml --gpu Voodoo2", ("Voodoo2", "H100")),
    ("plan small.yaml --gpu H100 --num_gpus 0", ("num_gpus",)),
    ("plan small.yaml --gpu H100 --price -3", ("price",)),
    ("plan small.yaml --gpu H100 --mfu 1.5", ("mfu",)),
    ("plan small.yaml --gpu H100 --gpu_memory 0", ("gpu_memory",)),
    ("plan small.yaml --budget 100", ("--budget", "--gpu")),
    ("plan small.yaml --budget 0 --gpu H100", ("budget",)),
    ("plan small.yaml --overwrite maybe", ("--overwrite", "true or false")),
    # Stages.
    ("pretrain small.yaml --learning_ra 5", ("--learning_ra", "--learning_rate")),
    ("pretrain small.yaml --output_dir small.yaml", ("small.yaml", "folder")),
    ("pretrain small.yaml --output_root small.yaml", ("small.yaml", "irectory")),
    ("pretrain small.yaml --seed -1", ("seed",)),
    ("pretrain small.yaml --data.seed x", ("seed", "whole number")),
    ("pretrain small.yaml --streaming --num_train_epochs 1", ("num_train_epochs", "max_steps")),
    ("pretrain small.yaml --streaming --dataloader_num_workers 2", ("dataloader_num_workers",)),
    ("pretrain small.yaml --attn_implementation flashy", ("attn_implementation", "flashy")),
    ("midtrain small.yaml", ("pretrain",)),
    ("sft small.yaml", ("sft", "midtrain")),
    ("sft nowhere.yaml", ("nowhere.yaml",)),
    ("dpo small.yaml", ("sft",)),
    ("grpo small.yaml", ("dpo",)),
    ("grpo small.yaml --model_name_or_path nowhere/at/all", ("nowhere/at/all",)),
    ("run small.yaml --from", ("--from",)),
    ("run small.yaml --from mid", ("--from", "mid", "pretrain")),
    ("run small.yaml --until never", ("--until", "never")),
    ("run small.yaml --from dpo --until sft", ("dpo", "sft")),
    ("run small.yaml --learning_rate 1", ("learning_rate", "--pretrain.learning_rate")),
    ("run small.yaml --accelerate_config nowhere.yaml", ("nowhere.yaml",)),
    ("run small.yaml --vocab_sise 300", ("vocab_sise",)),
    ("sweep small.yaml", ("several values",)),
    ("sweep small.yaml --depth 2 2", ("depth",)),
    ("sweep small.yaml --depth 2 four", ("depth", "four")),
    ("sweep small.yaml --dpeth 2 3", ("dpeth", "depth")),
    ("sweep small.yaml --depth 2 3 --output_dir x", ("output_root",)),
    ("sweep small.yaml --depth 2 3 --dry_run maybe", ("dry_run", "true or false")),
    ("sweep small.yaml --depth 2 3 --accelerate_config nowhere.yaml", ("nowhere.yaml",)),
    ("bench small.yaml --vs tortoise", ("tortoise", "trainer")),
    ("bench small.yaml --steps 0", ("--steps",)),
    ("bench small.yaml --rounds 9 --steps 3", ("--rounds",)),
    ("bench small.yaml --vs nanochat", ("--nanochat",)),
    ("bench small.yaml --vs nanochat --nanochat .", ("nanochat",)),
    ("bench small.yaml --decode_tokens -1", ("--decode_tokens",)),
    # Tools for data.
    ("tokenizer train small.yaml --vocab_size 10", ("vocab_size", "265")),
    ("tokenizer train small.yaml --max_train_bytes 0", ("max_train_bytes",)),
    ("tokenizer stats small.yaml --max_bytes 0", ("max_bytes",)),
    ("tokenizer stats small.yaml --compare nowhere/at/all", ("nowhere/at/all",)),
    ("data prepare small.yaml --executor cloud", ("executor", "cloud", "slurm")),
    ("data prepare small.yaml --num_proc 0", ("num_proc",)),
    ("data prepare small.yaml --shard_size 3", ("shard_size", "max_length")),
    ("data prepare small.yaml --validation_fraction 1", ("validation_fraction",)),
    ("data prepare small.yaml --validation_fraction -0.1", ("validation_fraction",)),
    ("data prepare small.yaml --validation_tokens 3", ("validation_tokens", "max_length")),
    ("data prepare small.yaml --tokens_threshold 0", ("tokens_threshold",)),
    ("data prepare small.yaml --tokens_threshold 99 --streaming", ("tokens_threshold", "streaming")),
    ("data prepare small.yaml --tinyworld_people 0", ("tinyworld_people",)),
    ("data prepare small.yaml --tinyworld_documents 0", ("tinyworld",)),
    ("data prepare small.yaml --dataset gutenberg", ("gutenberg_books",)),
    ("data prepare small.yaml --dataset gutenberg --gutenberg_books -4", ("gutenberg_books",)),
    ("data prepare small.yaml --data_path", ("data_path",)),
    ("data inspect small.yaml --rows -1", ("rows",)),
    ("data download --dataset ../up", ("../up",)),
    ("data download -n 0", ("-n",)),
    ("data download --num_workers 0", ("num_workers",)),
    ("data download -n some", ("some",)),
    ("data push small.yaml", ("--repo_id",)),
    ("data push small.yaml --repo_id a/b/c", ("a/b/c",)),
    # Tools for models and runs.
    ("chat", ("DIR",)),
    ("chat nowhere/at/all", ("nowhere/at/all",)),
    ("chat .", ("config.json",)),
    ("chat small.yaml", ("small.yaml",)),
    ("chat . --temperature -1", ("temperature",)),
    ("chat . --temperature nan", ("temperature",)),
    ("chat . --top_p 2", ("top_p",)),
    ("chat . --top_k -1", ("top_k",)),
    ("chat . --max_new_tokens 0", ("max_new_tokens",)),
    ("chat . --repetition_penalty 0", ("repetition_penalty",)),
    ("chat . --best 0", ("--best",)),
    ("chat . --seed one", ("--seed", "one")),
    ("chat . --dtype int4", ("--dtype", "int4")),
    ("web .", ("config.json",)),
    ("web . --port 99999", ("port",)),
    ("web . --queue_size 0", ("queue_size",)),
    ("serve .", ("config.json",)),
    ("serve . --port http", ("port", "http")),
    ("serve . --max_active 0", ("max_active",)),
    ("serve . --host 0.0.0.0", ("0.0.0.0",)),
    ("serve . --host 0.0.0.0 --token_file nowhere", ("nowhere",)),
    ("serve . --host 0.0.0.0 --token_file .", ("--token_file", ".")),
    ("web . --host 0.0.0.0", ("0.0.0.0",)),
    ("space .", ("--output_dir",)),
    ("space nowhere/at/all --output_dir out", ("nowhere/at/all",)),
    ("space . --output_dir out --model_repo nobody", ("--model_repo", "nobody")),
    ("eval", ("MODEL",)),
    ("eval .", ("config.json",)),
    ("eval . --tasks ,", ("--tasks",)),
    ("eval . --limit 0", ("--limit",)),
    ("eval . --num_fewshot -1", ("--num_fewshot",)),
    ("eval . --batch_size none", ("--batch_size", "none")),
    ("eval . --tasks bpb", ("--bpb_text",)),
    ("eval . --log_samples", ("--output_path",)),
    ("eval . --include_path nowhere", ("--include_path", "nowhere")),
    ("eval . --task_data hellaswag", ("--task_data", "hellaswag")),
    ("eval . --metadata {", ("--metadata", "JSON")),
    ("eval . --metadata [1]", ("--metadata", "object")),
    ("compare", ("RUN",)),
    ("compare one", ("two runs",)),
    ("compare one other", ("one",)),
    ("compare one other --output here.pdf", ("--output", "here.pdf", ".png")),
    ("compare one other --stage rlhf", ("--stage", "rlhf")),
    ("leakage", ("RUN",)),
    ("leakage nowhere", ("nowhere",)),
    ("leakage . --num_proc many", ("--num_proc", "many")),
    ("report", ("RUN",)),
    ("report nowhere", ("nowhere",)),
    ("report . --price -1", ("--price",)),
    ("report . --price nan", ("--price",)),
    ("report . --num_gpus 0", ("--num_gpus",)),
]


@pytest.mark.parametrize(("words", "culprits"), FLAGS, ids=[words for words, _ in FLAGS])
def test_a_wrong_flag_is_named(refused, words, culprits):
    refused(words, *culprits)


HUGE = "9" * 5000


@pytest.mark.parametrize("flag", ["--depth", "--learning_rate", "--columns", "--report_to", "--bf16"])
def test_a_value_of_five_thousand_digits_is_refused_in_one_short_sentence(refused, flag):
    refused(["pretrain", "small.yaml", flag, HUGE], flag.removeprefix("--"))
