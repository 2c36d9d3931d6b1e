"""A model folder that is broken, or does not fit, is refused by everything that loads it."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from damage import cut, edit, swap_letters
from safetensors.torch import load_file, save_file


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def as_pickle(folder: Path) -> None:
    """The weights as a pickle that runs a program where it is loaded."""

    class Harm:
        def __reduce__(self):
            return (Path.touch, (folder / "pwned",))

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": Harm()}))


BROKEN: dict[str, Callable[[Path], object]] = {
    "half of config.json": lambda folder: cut(folder / "config.json"),
    "config.json that is a list": lambda folder: (folder / "config.json").write_text("[]"),
    "config.json that is empty": lambda folder: (folder / "config.json").write_text(""),
    "no model_type": lambda folder: edit(folder / "config.json", lambda config: config.pop("model_type")),
    "an unknown model_type": lambda folder: edit(folder / "config.json", lambda c: c.update(model_type="gpt9")),
    "a shape that cannot be": lambda folder: edit(folder / "config.json", lambda c: c.update(num_attention_heads=7)),
    "a switch of another type": lambda folder: edit(folder / "config.json", lambda c: c.update(qk_norm="yes")),
    "fewer layers than weights": lambda folder: edit(
        folder / "config.json", lambda c: c.update(num_hidden_layers=1, layer_types=["full_attention"])
    ),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "half of the weights": lambda folder: cut(folder / "model.safetensors"),
    "weights that are text": lambda folder: (folder / "model.safetensors").write_text("weights"),
    "a tensor too few": lambda folder: weights(folder, lambda tensors: tensors.pop("lm_head.weight")),
    "a tensor of another shape": lambda folder: weights(
        folder, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(7, 32)})
    ),
    "a pickle that runs a program": as_pickle,
    "an index of files that are not there": lambda folder: (
        (folder / "model.safetensors").unlink(),
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}})
        ),
    ),
    "half of an adapter_config.json": lambda folder: (folder / "adapter_config.json").write_text('{"peft_type"'),
    "an adapter of a model that is not there": lambda folder: (
        (folder / "config.json").unlink(),
        (folder / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "r": 4, "base_model_name_or_path": "./nowhere/at/all"})
        ),
    ),
    "no tokenizer": lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
    "half of the tokenizer": lambda folder: cut(folder / "tokenizer.json"),
    "a link that leads nowhere": lambda folder: (
        (folder / "model.safetensors").unlink(),
        (folder / "model.safetensors").symlink_to("nowhere"),
    ),
}
COMMANDS = {
    "chat": "chat mine --prompt Hi",
    "eval": "eval mine --tasks tinyworld_facts --limit 1 --no_cache --cache_dir cache",
    "sft": "sft small.yaml --model_name_or_path ./mine",
}


@pytest.fixture
def mine(here, run_folder) -> Path:
    """A copy of the trained model alone."""
    names = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    (here / "mine").mkdir()
    for name in (*names, "chat_template.jinja"):
        shutil.copyfile(run_folder / "pretrain" / name, here / "mine" / name)
    return here / "mine"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_model_is_refused_by_name(refused, mine, case, command):
    BROKEN[case](mine)
    sentence = refused(COMMANDS[command])
    assert "mine" in sentence or ("nowhere/at/all" in sentence and case == "an adapter of a model that is not there")
    assert not (mine / "pwned").exists()


FOREIGN = {
    "code of its own": ("chat mine --prompt Hi", ("mine", "trust_remote_code")),
    "code of its own, scored": ("eval mine --tasks tinyworld_facts --limit 1", ("mine", "trust_remote_code")),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_code_that_comes_with_a_foreign_model_runs_only_on_request(refused, mine, case):
    (mine / "own.py").write_text("from pathlib import Path\nPath(__file__).with_name('pwned').touch()\n")
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    edit(mine / "config.json", lambda config: config.update(model_type="own", auto_map=auto_map))
    words, culprits = FOREIGN[case]
    refused(words, *culprits)
    assert not (mine / "pwned").exists()


def test_training_goes_on_from_our_models_only(refused, here, pretrained):
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=300)).save_pretrained(here / "gpt2")
    for path in (pretrained / "pretrain").glob("tokenizer*"):
        shutil.copyfile(path, here / "gpt2" / path.name)
    shutil.copytree(pretrained / "tokenizer", here / "runs" / "small" / "tokenizer")
    refused("pretrain small.yaml --model_name_or_path ./gpt2", "gpt2", "hfgpt")


def test_a_model_of_another_tokenizer_is_refused(refused, here, mine):
    swap_letters(mine / "tokenizer.json")
    refused("pretrain small.yaml --overwrite --model_name_or_path ./mine", "mine", "tokenizer")


def test_a_model_with_too_few_positions_is_refused(refused, here, mine):
    tensors = load_file(mine / "model.safetensors")
    tensors["model.embed_positions.weight"] = torch.zeros(16, 32)
    save_file(tensors, mine / "model.safetensors", metadata={"format": "pt"})
    change = {"position_embedding_type": "learned", "max_position_embeddings": 16}
    edit(mine / "config.json", lambda config: config.update(change))
    refused("pretrain small.yaml --overwrite --model_name_or_path ./mine", "mine", "max_length")


@pytest.mark.parametrize(
    ("words", "culprits"),
    [
        ("chat mine --device cuda:7", ("--device", "cuda:7")),
        ("chat mine --device toaster", ("--device", "toaster")),
        ("chat mine --system Brief --prompt Hi", ("--system",)),
        ("chat mine --calculator --prompt Hi", ("--calculator",)),
        ("web mine --compare nowhere/at/all --port 0", ("nowhere/at/all",)),
        ("space mine --output_dir mine", ("mine", "--output_dir")),
        ("space mine --output_dir small.yaml", ("small.yaml", "folder")),
        ("space mine --output_dir runs", ("runs", "--overwrite")),
        ("eval mine --tasks no_such_task", ("no_such_task",)),
        ("eval mine --tasks hellaswag --task_data hellaswag=nowhere", ("hellaswag", "nowhere")),
        ("eval mine --tasks bpb --bpb_text nowhere.txt", ("nowhere.txt",)),
        ("eval mine --tasks core --core_bundle nowhere", ("nowhere",)),
        ("eval mine --tasks tinyworld_facts --output_path small.yaml/x.json --limit 1", ("small.yaml",)),
        ("eval mine --tasks tinyworld_facts --include_path small.yaml", ("--include_path", "small.yaml")),
    ],
)
def test_a_good_model_is_not_used_for_what_cannot_be(refused, mine, words, culprits):
    refused(words, *culprits)
