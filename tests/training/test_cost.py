"""Hours, dollars, decoding bounds and what money buys are sums that can be done by hand, and no figure is made up."""

import json

import pytest

from hfgpt.arguments import ModelArguments
from hfgpt.errors import UserError
from hfgpt.model.from_recipe import architecture_of
from hfgpt.training.accelerators import ACCELERATORS, find_accelerator
from hfgpt.training.budget import flops_per_token, scaling_parameters
from hfgpt.training.cost import ASSUMED_MFU, Utilization, flops_bought, hours, utilization
from hfgpt.training.inference_cost import decode_bound, kv_cache_bytes
from hfgpt.training.purchase import purchase

H100 = find_accelerator("H100")
HALF = Utilization(0.5, "stated")


def at_depth(depth: int) -> dict:
    return architecture_of(ModelArguments(depth=depth), vocab_size=32_768, max_length=2048)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("h100", "H100"),
        ("H100-PCIe", "H100 PCIe"),
        ("rtx4090", "RTX 4090"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA H200 NVL", "H200 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("rtx-4090-d", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("Tesla T4", None),
    ],
)
def test_accelerators_are_found_by_whole_words_of_their_names(name, found):
    accelerator = find_accelerator(name)
    assert (accelerator.name if accelerator else None) == found


def test_every_accelerator_is_found_by_its_own_name_and_fp8_doubles_its_peak():
    for accelerator in ACCELERATORS:
        assert find_accelerator(accelerator.name) == accelerator
        if accelerator.fp8_flops is not None:
            assert accelerator.fp8_flops == pytest.approx(2 * accelerator.bf16_flops, rel=0.02)


def test_hours_and_the_flops_of_hours_are_each_others_inverse():
    assert hours(989e12 * 3600, H100, num_gpus=1, mfu=1.0) == pytest.approx(1.0)
    assert hours(989e12 * 3600, H100, num_gpus=8, mfu=0.5) == pytest.approx(0.25)
    assert hours(flops_bought(12.0, H100, 0.4), H100, 4, 0.4) == pytest.approx(3.0)


def test_a_stated_mfu_wins_then_a_measured_one_then_an_assumption_that_says_so(tmp_path):
    def report(name: str, **values) -> None:
        (tmp_path / name).write_text(json.dumps({"kind": "bench", "device": "NVIDIA H100 80GB HBM3"} | values))

    assumed = utilization(H100, None, "d20", tmp_path)
    assert (assumed.mfu, assumed.is_measured) == (ASSUMED_MFU, False)
    assert "ASSUMPTION" in assumed.source
    report("other_gpu.json", recipe="d20", mfu=0.9, device="NVIDIA A100-SXM4-80GB")
    report("not_a_bench.json", recipe="d20", mfu=0.8, kind="sweep")
    report("peak_unknown.json", recipe="d20", mfu=None)
    (tmp_path / "torn.json").write_text("{")
    assert not utilization(H100, None, "d20", tmp_path).is_measured
    report("d12.json", recipe="d12", mfu=0.44)
    assert utilization(H100, None, "d20", tmp_path).mfu == 0.44
    report("d20.json", recipe="d20", mfu=0.51)
    report("a_d24.json", recipe="d24", mfu=0.55)
    measured = utilization(H100, None, "d20", tmp_path)
    assert (measured.mfu, measured.is_measured) == (0.51, True)
    assert "d20.json" in measured.source
    assert utilization(H100, 0.3, "d20", tmp_path).mfu == 0.3


def test_the_cache_of_a_sliding_layer_ends_at_its_window():
    gpt2 = architecture_of(ModelArguments(preset="gpt2"), 50_257, 1024)
    assert kv_cache_bytes(gpt2, 1000) == 2 * 12 * 768 * 1000 * 2
    sliding = at_depth(4)
    assert sliding["layer_types"].count("sliding_attention") == 3
    assert kv_cache_bytes(sliding, 2048) == 2 * 256 * (3 * 512 + 2048) * 2


def test_decoding_is_bound_by_bandwidth_alone_and_by_flops_in_a_crowd():
    d12 = at_depth(12)
    weights = scaling_parameters(d12)
    alone = decode_bound(d12, H100, batch=1, tokens=1)
    assert alone == pytest.approx(3.35e12 / (2 * weights + kv_cache_bytes(d12, 1)))
    crowd = decode_bound(d12, H100, batch=100_000, tokens=1)
    assert crowd == pytest.approx(989e12 / (2 * weights))


def any_fits(architecture) -> int:
    return 1


def test_a_budget_buys_the_deepest_model_that_reaches_its_horizon():
    bought = purchase(100, H100, HALF, at_depth, any_fits, max_length=2048, price=2.5, num_gpus=8)
    best, *smaller = bought.offers
    assert best.gpu_hours == 40 and best.hours == 5
    assert best.flops == pytest.approx(40 * 3600 * 989e12 * 0.5)
    assert best.tokens * flops_per_token(at_depth(best.depth), 2048) == pytest.approx(best.flops)
    assert best.ratio >= 12
    deeper = at_depth(best.depth + 1)
    assert best.flops < 12 * scaling_parameters(deeper) * flops_per_token(deeper, 2048)
    assert [offer.depth for offer in smaller] == [best.depth - 2, best.depth - 4]
    assert smaller[1].ratio > smaller[0].ratio > best.ratio


def test_without_a_price_the_answer_stands_beside_each_of_several_and_none_is_taken_for_true():
    bought = purchase(100, H100, HALF, at_depth, any_fits, max_length=2048)
    assert [offer.gpu_hours for offer in bought.offers] == [100, 50, pytest.approx(33.33, abs=0.01), 25]
    depths = [offer.depth for offer in bought.offers]
    assert depths == sorted(depths, reverse=True) and depths[0] > depths[-1]
    assert bought.as_dict()["price"] is None


def test_a_fixed_depth_is_kept_and_too_little_money_is_refused():
    (only,) = purchase(100, H100, HALF, at_depth, any_fits, max_length=2048, price=3, depth=8).offers
    assert only.depth == 8
    with pytest.raises(UserError, match="too few for a model of one layer"):
        purchase(0.001, H100, HALF, at_depth, any_fits, max_length=2048, price=3)
