"""The Python blocks that docs/trainer-users.md shows under "Others' trainers and tools", as they stand there."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import REPOSITORY
from transformers import AutoModelForCausalLM


@pytest.fixture
def run_block(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the block with these words in it, in an empty folder, on a model of the depth series; returns its names."""
    page = (REPOSITORY / "docs" / "trainer-users.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page.partition("## Others' trainers and tools")[2], re.M | re.S)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)

    def run(words: str) -> dict[str, Any]:
        (block,) = (block for block in blocks if words in block)
        names: dict[str, Any] = {}
        exec(block.replace("runs/tiny/sft", str(folders["depth"])), names)
        return names

    return run


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(40)[None], use_cache=False).logits


def test_lora_is_saved_and_merged(run_block, folders: dict[str, Path]) -> None:
    pytest.importorskip("peft")
    run_block("get_peft_model")
    assert Path("my_adapters", "adapter_config.json").is_file()
    untrained, merged = (
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
        for folder in (folders["depth"], "my_model")
    )
    torch.testing.assert_close(logits_of(merged), logits_of(untrained), rtol=1e-5, atol=1e-5)


def test_int8_weights_are_loaded_and_saved(run_block) -> None:
    pytest.importorskip("torchao")
    model = run_block("Int8WeightOnlyConfig")["model"]
    again = AutoModelForCausalLM.from_pretrained("my_int8_model", trust_remote_code=True, device_map="cpu")
    assert torch.equal(logits_of(again), logits_of(model))


def test_a_graph_is_exported(run_block) -> None:
    model = run_block("torch.export.export")["model"]
    program = torch.export.load("model.pt2").module()
    logits = program(input_ids=torch.arange(40)[None], use_cache=False).logits
    torch.testing.assert_close(logits, logits_of(model), rtol=1e-4, atol=1e-5)
