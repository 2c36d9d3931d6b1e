"""Loss and gradients without logits are those of the plain pair, in the function and through the model."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from hfgpt.model.linear_cross_entropy import linear_cross_entropy, token_losses

TOKENS, HIDDEN, VOCAB = 300, 16, 97  # three chunks on a CPU


def inputs(requires_grad: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    hidden_states = torch.randn(TOKENS, HIDDEN, generator=generator).requires_grad_(requires_grad)
    weight = torch.randn(VOCAB, HIDDEN, generator=generator).requires_grad_(requires_grad)
    targets = torch.randint(VOCAB, (TOKENS,), generator=generator)
    targets[::5] = -100
    return hidden_states, weight, targets


def plain(hidden_states, weight, targets, softcap, reduction="sum") -> torch.Tensor:
    logits = F.linear(hidden_states, weight).float()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, targets, reduction=reduction)


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("softcap", [None, 15.0, 0.5, 100.0])
def test_loss_and_gradients_are_those_of_the_plain_pair(softcap) -> None:
    found = []
    for function in (plain, linear_cross_entropy):
        hidden_states, weight, targets = inputs()
        loss = function(hidden_states, weight, targets, softcap)
        (loss / 240).backward()
        found.append((loss.detach() / 240, hidden_states.grad, weight.grad))
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert found[0][2].abs().max() > 1e-3
    assert not found[1][1][::5].any()  # a token without loss moves nothing


@pytest.mark.parametrize("softcap", [None, 15.0])
def test_losses_of_single_tokens_are_those_of_the_plain_pair(softcap) -> None:
    hidden_states, weight, targets = inputs(requires_grad=False)
    expected = plain(hidden_states, weight, targets, softcap, reduction="none")
    torch.testing.assert_close(token_losses(hidden_states, weight, targets, softcap), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(linear_cross_entropy(hidden_states, weight, targets, softcap), expected.sum())


def test_logits_never_stand_whole_in_memory() -> None:
    largest = {}
    for function in (plain, linear_cross_entropy):
        hidden_states, weight, targets = inputs()
        with LargestTensor() as seen:
            function(hidden_states, weight, targets, 15.0).backward()
        largest[function] = seen.elements
    assert largest == {plain: TOKENS * VOCAB, linear_cross_entropy: 128 * VOCAB}


def test_a_frozen_head_and_frozen_hidden_states_get_no_gradient() -> None:
    for frozen in (0, 1):
        tensors = inputs()
        tensors[frozen].requires_grad_(False)
        linear_cross_entropy(*tensors, 15.0).backward()
        assert tensors[frozen].grad is None
        assert tensors[1 - frozen].grad.abs().max() > 0.1


def test_autocast_multiplies_in_bfloat16_and_sums_in_float32() -> None:
    found = []
    for function in (plain, linear_cross_entropy):
        hidden_states, weight, targets = inputs()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = function(hidden_states, weight, targets, 15.0)
        (loss / 240).backward()
        assert (loss.dtype, hidden_states.grad.dtype, weight.grad.dtype) == (torch.float32,) * 3
        found.append((loss.detach() / 240, hidden_states.grad, weight.grad))
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=0.02, atol=1e-3)


def test_it_compiles_without_a_break() -> None:
    from hfgpt.model.linear_cross_entropy import _LinearCrossEntropy

    def step(hidden_states, weight, targets):
        return _LinearCrossEntropy.apply(hidden_states, weight, targets, 15.0, torch.float32, None)

    expected, got = inputs(), inputs()
    loss = step(*expected)
    loss.backward()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(*got)
    compiled.backward()
    torch.testing.assert_close(compiled, loss)
    torch.testing.assert_close(got[1].grad, expected[1].grad)


@pytest.fixture
def input_ids() -> torch.Tensor:
    return torch.randint(2, 97, (8, 24), generator=torch.Generator().manual_seed(3))


def test_a_model_trains_without_logits_and_learns_the_same(small_model, family, input_ids) -> None:
    model = small_model(family).train()
    labels = input_ids.clone()
    labels[2, 5:] = -100

    def gradient(**kwargs) -> tuple[float, torch.Tensor, torch.Tensor | None]:
        model.zero_grad()
        outputs = model(input_ids, labels=labels, **kwargs)
        outputs.loss.backward()
        gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        return outputs.loss.item(), gradients, outputs.logits

    loss, gradients, logits = gradient(skip_logits=False)
    fused_loss, fused_gradients, nothing = gradient()
    assert (tuple(logits.shape), nothing) == ((8, 24, 97), None)
    assert fused_loss == pytest.approx(loss, abs=1e-5)
    assert (fused_gradients - gradients).abs().max() < 1e-5


def test_logits_are_there_outside_of_training_and_where_the_head_is_not_plain(small_model, family, input_ids) -> None:
    model = small_model(family)
    assert model(input_ids, labels=input_ids).logits.shape == (8, 24, 97)
    assert model(input_ids, labels=input_ids, skip_logits=True).logits is None
    assert model.train()(input_ids).logits.shape == (8, 24, 97)
    seen = []
    handle = model.lm_head.register_forward_hook(lambda *args: seen.append(args[2].shape))
    assert model(input_ids, labels=input_ids).logits is not None
    assert seen == [(8, 24, 97)]
    handle.remove()
    model.loss_function = lambda logits, labels, vocab_size, **kwargs: logits.sum()
    assert model(input_ids, labels=input_ids).logits is not None


def test_unreduced_losses_stand_where_their_labels_are_predicted(small_model, family, input_ids) -> None:
    model = small_model(family)
    labels = input_ids.clone()
    labels[1, :10] = -100
    with torch.no_grad():
        outputs = model(input_ids, labels=labels, reduction="none")
        logits = model(input_ids).logits
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none").view(8, 23)
    assert outputs.logits is None
    torch.testing.assert_close(outputs.loss[:, :-1], expected, rtol=1e-5, atol=1e-5)
    assert not outputs.loss[:, -1].any()


def test_a_tied_head_gets_both_of_its_gradients(small_model, input_ids) -> None:
    model = small_model("gpt2").train()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    gradients = []
    for skip_logits in (False, True):
        model.zero_grad()
        model(input_ids, labels=input_ids, skip_logits=skip_logits).loss.backward()
        gradients.append(nn.utils.parameters_to_vector([model.lm_head.weight.grad]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)
