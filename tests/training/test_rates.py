"""Rates that nobody set: from the shape, or from the stage before where it trained by the same optimizer."""

import pytest
from run_folders import architecture, write_stage

from hfgpt.training.arguments import StageArguments
from hfgpt.training.rates import default_rates, fill_rates, muon_rate, where_rates_ended

BY_MUON = {"learning_rate": 0.01, "embedding_learning_rate": 0.2, "head_learning_rate": 0.004, "optimizer": "muon"}


def write_run(folder, last_rate: float):
    records = [{"step": 1, "learning_rate": 0.01}, {"step": 2, "learning_rate": last_rate}]
    return write_stage(folder, records, identity=BY_MUON)


def test_a_stage_carries_on_where_the_rates_of_the_one_before_ended(tmp_path):
    rates, ended_at = where_rates_ended(write_run(tmp_path / "one", 0.004), "muon")
    assert rates == {name: rate for name, rate in BY_MUON.items() if name != "optimizer"}
    assert ended_at == pytest.approx(0.4)
    assert where_rates_ended(write_run(tmp_path / "other", 0.0005), "muon")[1] == 1.0  # too little to carry on


def test_muons_rates_are_of_no_use_to_another_optimizer(tmp_path):
    earlier, ended_at = where_rates_ended(write_run(tmp_path / "one", 0.004), "adamw_torch")
    assert (earlier, ended_at) == ({}, 1.0)
    args = StageArguments(output_dir=str(tmp_path / "two"), optim="adamw_torch", use_cpu=True)
    assert args.fill_rates(architecture()) == default_rates(architecture(), uses_muon=False)


def test_a_rate_that_is_set_stays_and_the_others_are_scaled():
    defaults = {"learning_rate": 0.02, "head_learning_rate": 0.01}
    assert fill_rates(defaults, {"learning_rate": 0.5, "head_learning_rate": None}, 0.1) == {
        "learning_rate": 0.5,
        "head_learning_rate": pytest.approx(0.001),
    }
    assert fill_rates(defaults, {"learning_rate": 0.0}, None) == {"learning_rate": 0.0, "head_learning_rate": 0.01}


def test_muons_rate_grows_with_the_batch_as_far_as_the_length_lets_it():
    assert muon_rate(2048, 200) == muon_rate(512, 50) == 0.02  # where it was tuned, and below
    assert muon_rate(8192, 100) == pytest.approx(0.04)  # the square root of 4
    assert muon_rate(2**19, 100) == pytest.approx(0.02 * 25**0.32)
    assert muon_rate(2**19, 5) == pytest.approx(0.06)  # nothing above was measured
    assert muon_rate(2**19, 2500) == muon_rate(2**21, 40_000) == 0.02  # nanochat's


def test_value_embeddings_have_a_rate_where_there_are_any():
    assert "value_embedding_learning_rate" in default_rates(architecture(), uses_muon=True)
    assert "value_embedding_learning_rate" not in default_rates(architecture(value_embeddings=False), uses_muon=True)
