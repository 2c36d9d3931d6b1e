"""Every saved folder carries its code: it loads where hfgpt cannot be imported, and saves whole again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from hfgpt import GPTForCausalLM
from hfgpt.model.configuration_gpt import AUTO_MAP, SOURCE_FILES

# Makes `import hfgpt` fail, as on a machine without the package.
ABSENT = """
import importlib.abc, sys, torch
from pathlib import Path
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hfgpt":
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Absent())
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
folder, again = map(Path, sys.argv[1:3])
"""
LOAD_AND_SAVE_AGAIN = """
expected = load_file(folder / "expected.safetensors")
for source, target in ((folder, again), (again, again.with_name("thrice"))):
    model = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules." + source.name), type(model).__module__
    difference = (model(expected["input_ids"]).logits - expected["logits"]).abs().max().item()
    assert difference < 1e-6, difference
    base = AutoModel.from_pretrained(source, trust_remote_code=True)
    assert type(base).__name__ == "GPTModel"
    torch.testing.assert_close(base(expected["input_ids"])[0], expected["hidden_states"])
    generated = model.generate(expected["input_ids"][:, :4], max_new_tokens=4, do_sample=False)
    assert generated.shape == (2, 8)
    model.save_pretrained(target)
"""
CONFIGURATION_ALONE = """
AutoConfig.from_pretrained(folder, trust_remote_code=True).save_pretrained(again)
config = AutoConfig.from_pretrained(again, trust_remote_code=True)
assert type(AutoModelForCausalLM.from_config(config, trust_remote_code=True)).__name__ == "GPTForCausalLM"
"""


def run_without_hfgpt(code: str, tmp_path: Path, *folders: Path) -> None:
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", ABSENT + code, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_folder_loads_and_saves_again_without_the_package(small_model, family, tmp_path) -> None:
    model = small_model(family)
    saved, again, thrice = tmp_path / "saved", tmp_path / "again", tmp_path / "thrice"
    model.save_pretrained(saved)
    input_ids = torch.randint(2, 97, (2, 12))
    with torch.no_grad():
        logits, hidden_states = model(input_ids).logits, model.model(input_ids).last_hidden_state
    expected = {"input_ids": input_ids, "logits": logits, "hidden_states": hidden_states}
    save_file(expected, saved / "expected.safetensors")
    run_without_hfgpt(LOAD_AND_SAVE_AGAIN, tmp_path, saved, again)
    for name in SOURCE_FILES:
        assert (again / name).read_bytes() == (saved / name).read_bytes() == (thrice / name).read_bytes()
    loaded = AutoModelForCausalLM.from_pretrained(thrice)
    assert isinstance(loaded, GPTForCausalLM)
    assert loaded.config.auto_map == AUTO_MAP
    torch.testing.assert_close(loaded(input_ids).logits, logits)


def test_a_configuration_loaded_alone_saves_the_modeling_file_too(small_config, tmp_path) -> None:
    """transformers fetches only the files that a class needs; a configuration must need its model's."""
    small_config("depth").save_pretrained(tmp_path / "saved")
    run_without_hfgpt(CONFIGURATION_ALONE, tmp_path, tmp_path / "saved", tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").glob("*.py")} == set(SOURCE_FILES)


def test_saving_over_itself_keeps_the_source(small_model, tmp_path) -> None:
    model = small_model("gpt2")
    model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == set(SOURCE_FILES)
    assert all((tmp_path / name).stat().st_size > 1000 for name in SOURCE_FILES)


@pytest.mark.parametrize("tied", [True, False])
def test_the_file_holds_a_tied_weight_once(small_model, family, tmp_path, tied: bool) -> None:
    small_model(family, tie_word_embeddings=tied).save_pretrained(tmp_path)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tied
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is tied


def test_a_model_sharded_by_fsdp2_saves_the_same_folder(small_model, family, tmp_path) -> None:
    """fully_shard puts the model into a class of torch's own making, which once ended up in the checkpoint."""
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    model = small_model(family)
    input_ids = torch.randint(2, 97, (2, 12))
    with torch.no_grad():
        expected = model(input_ids).logits
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert type(model).__name__ == "FSDPGPTForCausalLM"
        with torch.no_grad():
            torch.testing.assert_close(model(input_ids).logits, expected)
        state = {name: tensor.full_tensor() for name, tensor in model.state_dict().items()}
        model.save_pretrained(tmp_path, state_dict=state)
    finally:
        distributed.destroy_process_group()
    assert {path.name for path in tmp_path.glob("*.py")} == set(SOURCE_FILES)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.architectures == ["GPTForCausalLM"]
    torch.testing.assert_close(loaded(input_ids).logits, expected)
