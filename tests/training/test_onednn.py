"""oneDNN's products are torch's own, forwards and backwards, compiled or not; a model learns by them as without."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from hfgpt import GPTConfig, GPTForCausalLM
from hfgpt.chat.gpt_decoder import is_plain_gpt
from hfgpt.training import onednn
from hfgpt.training.arguments import StageArguments
from hfgpt.training.muon import polar_express
from hfgpt.training.speed import multiply_by_onednn, speed_up, use_onednn

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"),
    reason="this torch was built without oneDNN's linear",
)


def small_model(**overrides) -> GPTForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "vocab_size": 300, "max_position_embeddings": 64}
    return GPTForCausalLM(GPTConfig.from_depth(2, **shape, **overrides)).train()


def gradients(model: nn.Module, input_ids: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(input_ids, labels=input_ids, num_items_in_batch=torch.tensor(252)).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("turned", itertools.product([False, True], repeat=2))
@pytest.mark.parametrize(("m", "k", "n"), [(96, 64, 160), (160, 64, 96), (1, 64, 64), (33, 7, 5)])
def test_a_product_is_torchs_own_however_its_operands_lie(m, k, n, turned) -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.randn(columns, rows, generator=generator).T
        if is_turned
        else torch.randn(rows, columns, generator=generator)
        for rows, columns, is_turned in ((m, k, turned[0]), (k, n, turned[1]))
    )
    torch.testing.assert_close(onednn.matmul(left, right), left @ right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 96, 32), (2, 32, 96)])
def test_muon_orthogonalises_to_the_same_matrix(shape) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    got = polar_express(matrices, onednn.bmm, onednn.baddbmm)
    torch.testing.assert_close(got, polar_express(matrices), rtol=0, atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_model_has_the_loss_and_gradients_that_it_had(compiled) -> None:
    model = small_model()
    by_onednn = copy.deepcopy(model)
    multiply_by_onednn(by_onednn)
    input_ids = torch.randint(300, (4, 64), generator=torch.Generator().manual_seed(1))
    expected, expected_gradients = gradients(model, input_ids)
    with torch.profiler.profile() as profile:
        loss, got = gradients(torch.compile(by_onednn) if compiled else by_onednn, input_ids)
    calls = sum(event.count for event in profile.key_averages() if event.key == "mkldnn::_linear_pointwise")
    assert calls == 3 * (2 * 6) + 3 * 2  # forwards and twice backwards, without gates; the head's, in two chunks
    torch.testing.assert_close(loss, expected)
    assert {name.removeprefix("_orig_mod.") for name in got} == set(expected_gradients)
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, expected_gradients[name.removeprefix("_orig_mod.")], rtol=1e-3, atol=1e-6)


def test_a_bias_is_added_and_half_precision_goes_as_before() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(128, 256)
    linear = copy.deepcopy(plain)
    linear.__class__ = onednn.OneDNNLinear
    inputs = torch.randn(2, 64, 128)
    torch.testing.assert_close(linear(inputs), plain(inputs))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(linear(inputs), plain(inputs))
    assert torch.equal(linear.to(torch.bfloat16)(inputs.bfloat16()), plain.to(torch.bfloat16)(inputs.bfloat16()))


def test_it_is_used_where_it_was_measured_to_be_faster_and_may_be(tmp_path, monkeypatch) -> None:
    args = StageArguments(output_dir=str(tmp_path), use_cpu=True)
    assert use_onednn(small_model(), args) is onednn.onednn_is_faster()
    with torch.backends.mkldnn.flags(enabled=False):
        assert not use_onednn(small_model(), args)
    monkeypatch.setattr("hfgpt.training.speed.onednn_is_faster", lambda: True)
    model = small_model()
    assert "float32 by oneDNN" in speed_up(model, args, None)
    assert isinstance(model.model.layers[0].mlp.up_proj, onednn.OneDNNLinear)
    assert not use_onednn(small_model().to(torch.bfloat16), args)
    assert "by oneDNN" not in speed_up(small_model(), replace(args, bf16=True), None)


def test_a_model_in_training_still_decodes_by_our_decoder() -> None:
    model = small_model().eval()
    multiply_by_onednn(model)
    assert is_plain_gpt(model)


def test_a_checkpoint_shows_nothing_of_it(tmp_path) -> None:
    model = small_model()
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    multiply_by_onednn(model)
    model.save_pretrained(tmp_path)
    loaded = GPTForCausalLM.from_pretrained(tmp_path)
    assert not any(isinstance(module, onednn.OneDNNLinear) for module in loaded.modules())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
