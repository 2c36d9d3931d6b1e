"""Muon orthogonalises, AdamW is AdamW, every parameter is trained once, and state survives a round trip."""

import copy
import functools
import math

import pytest
import torch

from hfgpt.errors import UserError
from hfgpt.model import GPTConfig, GPTForCausalLM
from hfgpt.training import muon
from hfgpt.training.arguments import StageArguments
from hfgpt.training.muon import POLAR_EXPRESS, orthogonalize
from hfgpt.training.optimizer import MuonAdamW, MuonAdamWFactory, parameter_groups
from hfgpt.training.rates import bigram_weight_decay
from hfgpt.training.schedules import warmup_stable_decay

RATES = {
    "learning_rate": 0.02,
    "embedding_learning_rate": 0.1,
    "head_learning_rate": 0.01,
    "scalar_learning_rate": 0.01,
}


def small_model(**overrides) -> GPTForCausalLM:
    torch.manual_seed(0)
    return GPTForCausalLM(GPTConfig.from_depth(2, vocab_size=64, max_position_embeddings=32, **overrides))


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 96, 32), (2, 32, 96)])
def test_orthogonalize_brings_singular_values_near_one(shape):
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    spread = torch.logspace(-1.5, 0, min(shape[1:]))  # a condition number of about 30
    singular_values = torch.linalg.svdvals(orthogonalize(left * spread @ right))
    assert singular_values.min() > 0.6 and singular_values.max() < 1.25


def test_stacks_of_more_shapes_than_torch_compiles_usually_are_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    compiled = muon._compiled_polar_express.__wrapped__()
    for columns in range(3, 14):
        x = torch.randn(2, 4, columns)
        assert torch.allclose(compiled(x), muon.polar_express(x), atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("shape", [(2, 96, 32), (2, 32, 96), (2, 48, 64)])
def test_wide_matrices_go_by_their_gram_matrix_to_the_same_place(shape):
    torch.manual_seed(0)
    x = torch.randn(shape)
    expected = x / (1.01 * x.norm(dim=(-2, -1), keepdim=True))
    for a, b, c in POLAR_EXPRESS:
        gram = expected @ expected.mT
        expected = a * expected + b * gram @ expected + c * gram @ gram @ expected
    assert torch.allclose(orthogonalize(x), expected, atol=1e-5)


def test_stacking_matrices_of_one_shape_changes_nothing():
    torch.manual_seed(0)
    stack = torch.randn(4, 48, 32)
    for alone, together in zip(stack, orthogonalize(stack), strict=True):
        assert torch.allclose(orthogonalize(alone[None])[0], together, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_is_in_exactly_one_group(tied):
    model = small_model(tie_word_embeddings=tied)
    groups = parameter_groups(model, **RATES)
    members = [id(p) for group in groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in model.parameters())
    by_name = {group["name"]: group for group in groups}
    assert model.lm_head.weight is by_name["head"]["params"][0]  # tied or not
    assert ("embeddings" in by_name) is not tied
    assert tied or by_name["embeddings"]["params"] == [model.model.embed_tokens.weight]
    assert all(p.ndim == 2 for p in by_name["matrices"]["params"])
    assert {p.numel() for p in by_name["scalars"]["params"]} == {1}  # residual scalars, not embeddings


def test_token_pairs_take_half_the_embeddings_rate_and_decay_alone():
    groups = parameter_groups(small_model(bigram_vocab_size=32), **RATES, weight_decay=0.1, bigram_weight_decay=0.3)
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates["bigrams"] == rates["embeddings"] / 2
    assert {group["name"]: group["weight_decay"] for group in groups} == {
        "matrices": 0.1,
        "embeddings": 0.0,
        "value_embeddings": 0.0,
        "bigrams": 0.3,
        "head": 0.0,
        "scalars": 0.0,
    }


@pytest.mark.parametrize(("given", "rate"), [({}, 0.1), ({"value_embedding_learning_rate": 0.03}, 0.03)])
def test_value_embeddings_take_their_own_rate_or_the_embeddings(given, rate):
    model = small_model()
    groups = {group["name"]: group for group in parameter_groups(model, **RATES, **given)}
    tables = [p for name, p in model.named_parameters() if ".value_embed." in name]
    assert tables and [id(p) for p in groups["value_embeddings"]["params"]] == [id(p) for p in tables]
    assert groups["value_embeddings"]["lr"] == rate
    assert groups["embeddings"]["lr"] == 0.1


def test_what_a_pair_learned_is_mostly_forgotten_when_its_row_comes_again():
    assert bigram_weight_decay(embedding_rate=0.5, steps_of_epoch=200, epochs=1.0) == 0
    decay = bigram_weight_decay(embedding_rate=0.5, steps_of_epoch=200, epochs=1.5)
    groups = parameter_groups(small_model(bigram_vocab_size=32), **RATES | {"embedding_learning_rate": 0.5})
    (rate,) = (group["lr"] for group in groups if group["name"] == "bigrams")
    assert (1 - rate * decay) ** 200 == pytest.approx(math.exp(-2))
    assert bigram_weight_decay(embedding_rate=0.5, steps_of_epoch=200, epochs=8) == decay
    less = bigram_weight_decay(embedding_rate=0.5, steps_of_epoch=200, epochs=1.25)
    assert (1 - rate * less) ** 200 == pytest.approx(math.exp(-1))


@pytest.mark.parametrize("steps_of_epoch", [0.2, 1.0, 2.0])
def test_pairs_decay_to_zero_and_not_beyond_where_a_step_reads_the_text_again(steps_of_epoch):
    """A large batch of a small text: a factor below -1 a step would make the table grow without end."""
    decay = bigram_weight_decay(embedding_rate=0.5, steps_of_epoch=steps_of_epoch, epochs=8)
    groups = parameter_groups(small_model(bigram_vocab_size=32), **RATES | {"embedding_learning_rate": 0.5})
    (rate,) = (group["lr"] for group in groups if group["name"] == "bigrams")
    assert (1 - rate * decay) ** steps_of_epoch == pytest.approx(math.exp(-2))


def test_embeddings_that_do_not_learn_do_not_decay():
    assert bigram_weight_decay(embedding_rate=0.0, steps_of_epoch=200, epochs=8) == 0


@pytest.mark.parametrize(("optim", "betas"), [("muon", (0.8, 0.99)), ("adamw_torch", (0.9, 0.95))])
def test_betas_that_nobody_set_go_by_the_optimizer(optim, betas, tmp_path):
    args = StageArguments(output_dir=str(tmp_path), optim=optim, use_cpu=True)
    assert (args.adam_beta1, args.adam_beta2) == betas
    args = StageArguments(output_dir=str(tmp_path), optim=optim, use_cpu=True, adam_beta2=0.9)
    assert args.adam_beta2 == 0.9


def test_adamw_groups_follow_torchs_adamw():
    torch.manual_seed(0)
    ours, theirs = torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.zeros(5, 3))
    theirs.data.copy_(ours.data)
    options = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    first = MuonAdamW([{"params": [ours], "kind": "adamw", **options}])
    second = torch.optim.AdamW([theirs], **options)
    for _ in range(20):
        gradient = torch.randn(5, 3)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        first.step()
        second.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_run_continued_from_its_state_dict_is_bit_identical():
    def steps(model, optimizer, seeds):
        for seed in seeds:
            torch.manual_seed(seed)
            ids = torch.randint(0, 64, (2, 32))
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    model = small_model()
    optimizer = MuonAdamWFactory()(model, **RATES)
    steps(model, optimizer, range(3))
    other = copy.deepcopy(model)
    restored = MuonAdamWFactory()(other, **RATES)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(model, optimizer, range(3, 6))
    steps(other, restored, range(3, 6))
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("tied", [False, True])
def test_muon_learns_faster_than_it_forgets(tied):
    model = small_model(tie_word_embeddings=tied)
    optimizer = MuonAdamWFactory()(model, **RATES)
    torch.manual_seed(1)
    ids = torch.randint(0, 64, (4, 32))
    losses = []
    for _ in range(30):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] > 4 and losses[-1] < 0.5


def test_the_state_of_another_version_is_refused():
    with_pairs = MuonAdamWFactory()(small_model(bigram_vocab_size=32), **RATES)
    without = MuonAdamWFactory()(small_model(bigram_vocab_size=0), **RATES)
    with pytest.raises(UserError, match="5 parameter groups and this version of hfgpt makes 6"):
        with_pairs.load_state_dict(without.state_dict())


def test_muon_refuses_vectors():
    with pytest.raises(ValueError, match="2-D"):
        MuonAdamW([{"params": [torch.nn.Parameter(torch.zeros(3))], "kind": "muon"}])


def test_warmup_stable_decay_starts_above_zero_and_ends_at_its_floor():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_stable_decay(optimizer, warmup_steps=4, decay_steps=10, total_steps=20, min_lr_ratio=0.1)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[10] == 1.0
    assert rates[19] == pytest.approx(0.1 + 0.9 * 0.1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_a_gpu_never_waits_for_it_and_goes_where_one_on_a_cpu_does():
    on_cpu, on_gpu = small_model(), small_model().cuda()
    optimizers = [MuonAdamWFactory()(model, **RATES) for model in (on_cpu, on_gpu)]
    for seed in range(3):
        torch.manual_seed(seed)
        for a, b in zip(on_cpu.parameters(), on_gpu.parameters(), strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.cuda()
        optimizers[0].step()
        if seed == 2:  # compiled by now; and loaded, as Trainer loads, with everything on the GPU
            state = copy.deepcopy(optimizers[1].state_dict())
            for entry in state["state"].values():
                entry.update({name: value.cuda() for name, value in entry.items()})
            optimizers[1].load_state_dict(state)
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
        try:
            optimizers[1].step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for a, b in zip(on_cpu.parameters(), on_gpu.parameters(), strict=True):
        assert (a - b.cpu()).norm() < 0.05 * (a.norm() + 1)  # bfloat16 against float32


def trained_state(found_inf: list[float | None], poisoned: bool = False) -> dict[str, torch.Tensor]:
    """Weights and state after a step for each entry of `found_inf`; where that is 1, gradients may be `poisoned`."""
    model = small_model()
    optimizer = MuonAdamWFactory()(model, **RATES, weight_decay=0.1)
    for step, found in enumerate(found_inf):
        torch.manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
            if found and poisoned:
                parameter.grad.fill_(float("nan"))
        optimizer.found_inf = None if found is None else torch.tensor(found)
        optimizer.step()
    state = {f"{i} {name}": v for i, s in optimizer.state_dict()["state"].items() for name, v in s.items()}
    return dict(model.named_parameters()) | state


def test_a_step_that_the_device_may_leave_out_is_the_same_to_the_last_bit():
    plain, gated = trained_state([None, None, None]), trained_state([0.0, 0.0, 0.0])
    assert all(torch.equal(plain[name], gated[name]) for name in plain)


def test_a_step_that_the_device_leaves_out_changes_neither_weights_nor_state():
    before, after = trained_state([0.0, 0.0]), trained_state([0.0, 0.0, 1.0], poisoned=True)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(trained_state([0.0, 0.0, 0.0])["lm_head.weight"], after["lm_head.weight"])
