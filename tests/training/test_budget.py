"""The arithmetic of parameters, FLOPs and steps agrees with the model itself and with sums done by hand."""

import pytest
import torch

from hfgpt.arguments import ModelArguments
from hfgpt.errors import UserError
from hfgpt.model import GPTConfig, GPTForCausalLM
from hfgpt.model.from_recipe import architecture_of
from hfgpt.training.budget import count_parameters, flops_per_token, plan_batch, scaling_parameters
from hfgpt.training.plan import Plan, make_plan

SHAPES = {
    "d4": ModelArguments(depth=4),
    "d5, one value embedding more": ModelArguments(depth=5),
    "gpt2": ModelArguments(preset="gpt2"),
    "gpt2, untied, without biases": ModelArguments(tie_word_embeddings=False, attention_bias=False, mlp_bias=False),
    "llama-like": ModelArguments(
        depth=4, mlp_type="swiglu", norm_weight=True, num_key_value_heads=2, value_embeddings=False
    ),
    "smear and backout": ModelArguments(depth=4, smear=True, backout=True),
    "kan": ModelArguments(depth=2, linear_type="kan"),
    "layer norms without weights": ModelArguments(preset="gpt2", norm_weight=False, qk_norm=True),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_counted_exactly(shape):
    architecture = architecture_of(SHAPES[shape], vocab_size=1000, max_length=256)
    with torch.device("meta"):
        model = GPTForCausalLM(GPTConfig(**architecture))
    assert count_parameters(architecture).total == sum(p.numel() for p in model.parameters())


def test_flops_count_windows_and_the_head():
    architecture = architecture_of(ModelArguments(depth=4), vocab_size=1000, max_length=2048)
    assert architecture["layer_types"] == ["sliding_attention"] * 3 + ["full_attention"]
    attention = 12 * 256 * (3 * 512 + 2048)  # heads x head_dim = 256
    assert flops_per_token(architecture, 2048) == 6 * scaling_parameters(architecture) + attention


def test_accumulation_follows_from_the_total_batch_size():
    batch = plan_batch(65_536, max_length=256, per_device=8, num_processes=4)
    assert (batch.grad_accum_steps, batch.tokens_per_step, batch.rows_per_step) == (8, 65_536, 256)


def test_an_impossible_batch_names_the_nearest_possible():
    with pytest.raises(UserError, match=r"nearest possible: 8,192 or 16,384"):
        plan_batch(10_000, max_length=1024, per_device=8, num_processes=1)
    with pytest.raises(UserError, match=r"nearest possible: 8,192\."):
        plan_batch(100, max_length=1024, per_device=8, num_processes=1)


def plan_of(**lengths):
    architecture = architecture_of(ModelArguments(preset="gpt2"), vocab_size=50_257, max_length=1024)
    return make_plan(
        architecture,
        depth=None,
        optimizer="adamw_torch",
        max_length=1024,
        per_device_batch_size=8,
        num_processes=1,
        **lengths,
    )


def test_the_first_length_that_is_set_wins_and_the_others_are_shown():
    plan = plan_of(num_train_epochs=2, target_param_data_ratio=20, target_flops=1e15, train_rows=800)
    assert [length.by for length in plan.lengths] == ["target_flops", "target_param_data_ratio", "num_train_epochs"]
    assert plan.max_steps == round(1e15 / (plan.flops_per_token * 8192))
    assert plan.lengths[2].steps == 200
    assert plan_of(max_steps=7, target_flops=1e15).max_steps == 7


def test_a_run_without_a_length_is_refused_unless_depth_gives_one():
    with pytest.raises(UserError, match="no length is set"):
        plan_of()
    architecture = architecture_of(ModelArguments(depth=12), vocab_size=32_768, max_length=2048)
    plan = make_plan(
        architecture, depth=12, optimizer="muon", max_length=2048, per_device_batch_size=16, num_processes=1
    )
    assert plan.length.by == "target_param_data_ratio"
    assert plan.batch.tokens_per_step == 524_288  # nanochat's d12 batch


def dial(depth: int, max_length: int = 2048, **settings) -> Plan:
    architecture = architecture_of(ModelArguments(depth=depth), vocab_size=32_768, max_length=max_length)
    usual = {"per_device_batch_size": 16, "num_processes": 1, "optimizer": "muon"}
    return make_plan(architecture, depth=depth, max_length=max_length, **usual | settings)


@pytest.mark.parametrize(
    ("rows", "processes", "fitting"), [(16, 1, 16), (12, 8, 8), (6, 8, 4), (16, 64, 4), (3, 1, 2)]
)
def test_the_dials_batch_is_the_same_on_any_machine_and_a_pass_has_the_rows_that_make_it_up(rows, processes, fitting):
    plan = dial(12, per_device_batch_size=rows, num_processes=processes)
    assert plan.batch.tokens_per_step == 524_288 and plan.max_steps == dial(12).max_steps
    assert plan.batch.per_device_batch_size == fitting
    assert (f"({rows} rows do not divide it)" in plan.as_text()) is (fitting != rows)


def test_processes_among_which_the_dials_batch_cannot_be_shared_are_refused():
    with pytest.raises(UserError, match=r"524,288 .* 24 process\(es\) = 786,432; the nearest possible: 786,432"):
        dial(12, num_processes=24)


def test_muons_rate_follows_from_batch_and_length_but_not_for_a_model_that_was_trained_before():
    assert dial(12).rates["learning_rate"] == dial(20).rates["learning_rate"] == 0.02
    short = {"max_steps": 100, "total_batch_size": 8192, "max_length": 256}
    assert dial(2, **short).rates["learning_rate"] == pytest.approx(0.04)
    assert dial(2, **short, rate_scale=0.5).rates["learning_rate"] == pytest.approx(0.02)
    assert dial(2, **short, rates={"learning_rate": 0.03}).rates["learning_rate"] == 0.03
    assert dial(2, **short, earlier_rates={}).rates["learning_rate"] == 0.02
    assert dial(2, **short, earlier_rates={"learning_rate": 0.01}).rates["learning_rate"] == 0.01
    assert dial(2, **short, earlier_rates={"learning_rate": 0.06}).rates["learning_rate"] == pytest.approx(0.04)
    adamw = dial(2, **short, optimizer="adamw_torch", earlier_rates={"learning_rate": 0.5})
    assert adamw.rates == {"learning_rate": 0.5}  # as it was


def test_the_dials_batch_is_of_rows_whatever_their_length():
    assert dial(12, max_length=1000).batch.tokens_per_step == 512_000
    assert dial(1, max_length=1_000_000, per_device_batch_size=1).batch.rows_per_step == 1


def test_a_shorter_horizon_takes_a_smaller_batch():
    """By FLOPs as by tokens: runs of equal FLOPs would else have too few steps for their schedule."""
    long, short = dial(12), dial(12, target_flops=1e16)
    assert short.batch.tokens_per_step == 65_536 and short.max_steps > 100
    ratio = short.total_tokens / scaling_parameters(short.architecture)
    assert dial(12, target_param_data_ratio=ratio).batch == short.batch
    assert dial(12, max_steps=5).batch == long.batch  # a trial of the long run has its batch


def test_impossible_shapes_are_refused_in_one_sentence():
    with pytest.raises(UserError, match="exclude each other"):
        architecture_of(ModelArguments(depth=4, preset="gpt2"), 1000, 256)
    with pytest.raises(UserError, match="section model: .*num_key_value_heads"):
        architecture_of(ModelArguments(depth=4, num_key_value_heads=3), 1000, 256)
