"""Fused losses by name: each gives what the model's own gives, or says why it cannot."""

import pytest
import torch

from hfgpt import GPTConfig, GPTForCausalLM
from hfgpt.errors import UserError
from hfgpt.training.fused_loss import torch_linear_cross_entropy, use_fused_loss


def small_model(softcap: float) -> GPTForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "vocab_size": 300, "max_position_embeddings": 64}
    return GPTForCausalLM(GPTConfig.from_depth(2, **shape, final_logit_softcapping=softcap)).train()


def step(model: GPTForCausalLM, name: str | None) -> tuple[float, torch.Tensor]:
    use_fused_loss(model, name)
    input_ids = torch.randint(300, (4, 64), generator=torch.Generator().manual_seed(1)).to(model.device)
    model.zero_grad()
    loss = model(input_ids, labels=input_ids, num_items_in_batch=torch.tensor(252)).loss
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.skipif(torch.__version__ < "2.13", reason="torch has linear_cross_entropy from 2.13 on")
def test_torchs_own_gives_the_loss_and_gradients_of_the_models() -> None:
    model = small_model(softcap=0)
    (loss, gradient), (expected, expected_gradient) = step(model, "torch"), step(model, None)
    assert loss == pytest.approx(expected, abs=1e-5)
    assert (gradient - expected_gradient).abs().max() < 1e-5 < expected_gradient.abs().max()


@pytest.mark.skipif(torch.__version__ < "2.13", reason="torch has linear_cross_entropy from 2.13 on")
def test_torchs_own_adds_up_a_large_vocabulary_in_bfloat16_without_loss() -> None:
    torch.manual_seed(0)
    hidden, head, targets = torch.randn(1024, 64), 0.2 * torch.randn(32768, 64), torch.randint(32768, (1024,))
    expected = torch.nn.functional.cross_entropy(hidden @ head.T, targets)
    with torch.autocast("cpu", torch.bfloat16):
        loss = torch_linear_cross_entropy(hidden, head, targets) / 1024
    assert loss.item() == pytest.approx(expected.item(), abs=2e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_ligers_gives_the_loss_and_gradients_of_the_models() -> None:
    pytest.importorskip("liger_kernel")
    model = small_model(softcap=15).cuda()
    (loss, gradient), (expected, expected_gradient) = step(model, "liger"), step(model, None)
    assert loss == pytest.approx(expected, abs=1e-4)
    assert (gradient - expected_gradient).abs().max() < 1e-4


def test_a_loss_that_cannot_serve_is_refused_in_one_sentence() -> None:
    with pytest.raises(UserError, match="torch's linear_cross_entropy has no soft cap: leave it null"):
        use_fused_loss(small_model(softcap=15), "torch")
    with pytest.raises(UserError, match="must be chunked, torch or liger, not fast"):
        use_fused_loss(small_model(softcap=15), "fast")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="liger needs a GPU"):
            use_fused_loss(small_model(softcap=15), "liger")


def test_the_choice_is_never_saved(tmp_path) -> None:
    model = small_model(softcap=0)
    before = model.state_dict().keys()
    use_fused_loss(model, "torch")
    assert model.state_dict().keys() == before
    model.save_pretrained(tmp_path)
    assert "fused" not in (tmp_path / "config.json").read_text()
    assert "linear_cross_entropy" not in (tmp_path / "config.json").read_text()
