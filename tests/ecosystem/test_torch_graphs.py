"""The model as one graph: torch.export, and torch.compile around a cache of fixed size."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import StaticCache


@pytest.fixture
def input_ids(tokenizer: Any) -> torch.Tensor:
    """Two rows of 40 tokens: more than the window of 16."""
    return torch.randint(len(tokenizer), (2, 40), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_an_exported_program_takes_any_batch_and_length(model, input_ids, tmp_path: Path) -> None:
    batch, length = torch.export.Dim("batch", min=1, max=8), torch.export.Dim("length", min=3, max=256)
    program = torch.export.export(
        model,
        (),
        {"input_ids": input_ids, "use_cache": False},
        dynamic_shapes={"input_ids": {0: batch, 1: length}, "use_cache": None},
    )
    torch.export.save(program, tmp_path / "model.pt2")
    run = torch.export.load(tmp_path / "model.pt2").module()
    for rows, tokens in ((2, 40), (1, 7), (1, 23)):
        part = input_ids[:rows, :tokens]
        expected = model(part, use_cache=False).logits
        torch.testing.assert_close(run(input_ids=part, use_cache=False).logits, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_decoding_step_is_one_graph_that_is_compiled_once(model, input_ids) -> None:
    expected = model(input_ids).logits
    cache = StaticCache(config=model.config, max_cache_len=64)
    model(input_ids[:, :30], past_key_values=cache)
    torch.compiler.reset()
    step = torch.compile(model, fullgraph=True, backend="aot_eager")
    for position in range(30, 40):
        # The first two steps may specialise on what the cache is; those after them find their graph.
        with torch._dynamo.config.patch(error_on_recompile=position >= 32):
            logits = step(input_ids[:, position : position + 1], past_key_values=cache).logits
        torch.testing.assert_close(logits[:, 0], expected[:, position], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_looking_back_needs_no_length_that_only_the_device_knows() -> None:
    from hfgpt import GPTConfig, GPTForCausalLM

    shape = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 97, "max_position_embeddings": 64}
    model = GPTForCausalLM(GPTConfig.from_depth(2, **shape, sliding_window=0, smear=True)).eval()
    tokens = torch.randint(97, (1, 20), generator=torch.Generator().manual_seed(0))
    cache = StaticCache(config=model.config, max_cache_len=32)
    model(tokens[:, :10], past_key_values=cache)
    torch.compiler.reset()
    step = torch.compile(model, fullgraph=True, backend="aot_eager")
    for position in range(10, 14):
        logits = step(tokens[:, position : position + 1], past_key_values=cache).logits[:, 0]
        torch.testing.assert_close(logits, model(tokens).logits[:, position], rtol=1e-4, atol=1e-5)
