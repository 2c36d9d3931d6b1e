"""Models that are imported by their Hub id, over real HTTP from its stand-in."""

import pytest
from commands import sentence_of_failure, succeed
from huggingface_hub import close_session, constants
from safetensors.torch import load_file
from transformers import AutoTokenizer, GPT2Config

from hfgpt.conversion.sources import local_source

GPT2 = GPT2Config(vocab_size=320, n_positions=64, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
CONFIGURATION = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "code.py": b"",
    "tf_model.h5": b"",
    "flax.msgpack": b"",
}


@pytest.fixture
def hub(hub_server, monkeypatch, tmp_path):
    """The stand-in, where this process goes, with an empty cache."""
    monkeypatch.setattr(constants, "ENDPOINT", hub_server.url)
    template = hub_server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    yield hub_server
    close_session()


@pytest.mark.parametrize(
    ("weights", "taken"),
    [
        (["model.safetensors", "pytorch_model.bin"], {"model.safetensors"}),
        (["pytorch_model.bin"], {"pytorch_model.bin"}),
        (["model_000650.pt", "meta_000650.json", "tokenizer.pkl", "optim_000650_rank0.pt"], None),
    ],
    ids=["safetensors", "older weights", "nanochat"],
)
def test_of_a_repo_only_configurations_tokenizer_and_one_copy_of_the_weights_are_downloaded(weights, taken, hub):
    hub.add_model("others/small", CONFIGURATION | {name: b"weights" for name in weights})
    folder = local_source("others/small", "main")
    taken = taken or {"model_000650.pt", "meta_000650.json", "tokenizer.pkl"}
    assert {path.name for path in folder.iterdir()} == taken | {"config.json", "tokenizer.json"}


@pytest.mark.slow
def test_a_model_of_the_hub_is_imported_and_one_that_is_not_there_is_named(
    hub_server, native_folder, plain_tokenizer, tmp_path
):
    folder = native_folder(GPT2)
    hub_server.add_model("others/gpt2", {path.name: path.read_bytes() for path in folder.iterdir()})
    environment = hub_server.env(tmp_path)
    words = ("--output_dir", tmp_path / "ours")
    absent = sentence_of_failure("hfgpt", "import", "others/absent", *words, **environment)
    assert "There is no others/absent on" in absent
    assert not (tmp_path / "ours").exists()

    succeed("hfgpt", "import", "others/gpt2", *words, **environment)
    ours, native = load_file(tmp_path / "ours" / "model.safetensors"), load_file(folder / "model.safetensors")
    assert (ours["model.embed_tokens.weight"] == native["transformer.wte.weight"]).all()
    assert AutoTokenizer.from_pretrained(tmp_path / "ours").get_vocab() == plain_tokenizer.get_vocab()
