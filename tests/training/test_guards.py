"""A spike or an explosion is told from what is usual by medians, and what is done about it goes by the recipe."""

import json
import math

import pytest

from hfgpt.training.guards import LEAST_STEPS, Guards, Limits

USUAL = [2.0, 2.1, 1.9, 2.2, 1.8] * 20  # median 2.0, median absolute deviation 0.1
SKIP = {"nan_policy": "stop", "loss_spike_policy": "skip", "grad_norm_policy": "skip"}


def guards(losses=USUAL, norms=None, window=100, **policies) -> Guards:
    found = Guards(SKIP | policies, window=window, zscore=6.0, norm_factor=10.0)
    for step, loss in enumerate(losses, start=1):
        assert found.judge(step, loss, 0.5 if norms is None else norms[step - 1]) is None
    return found


def test_the_limits_are_those_of_the_medians():
    limits = guards().limits
    assert limits.loss == pytest.approx(2.0 + 6 * 1.4826 * 0.1)
    assert limits.grad_norm == pytest.approx(5.0)


def test_what_is_above_its_limit_is_a_fault_and_what_is_below_is_not():
    judge = guards()
    limits = judge.limits
    assert judge.judge(101, limits.loss, limits.grad_norm) is None
    spike = judge.judge(102, 3.0, 0.5)
    assert spike is not None and (spike.key, spike.policy) == ("loss_spike_policy", "skip")
    assert "the loss is 3 at step 102, above its limit of 2.8" in spike.in_words()
    explosion = judge.judge(103, 2.0, 5.1)
    assert explosion is not None and (explosion.key, explosion.value) == ("grad_norm_policy", 5.1)
    assert [fault["step"] for fault in judge.take_unrecorded()] == [102, 103]
    assert judge.take_unrecorded() == []


def test_too_few_steps_say_nothing():
    judge = guards(USUAL[: LEAST_STEPS - 1])
    assert judge.limits == Limits(math.inf, math.inf)
    assert judge.judge(LEAST_STEPS, 1e9, 1e9) is None
    assert judge.judge(LEAST_STEPS + 1, 1e9, 1e9) is not None


def test_losses_that_are_all_equal_leave_room_for_a_little_more():
    assert guards([2.0] * 50).limits.loss == pytest.approx(2.0 + 6 * 0.02)


def test_gradients_of_nothing_are_no_measure():
    assert guards([0.0] * 50, norms=[0.0] * 50).limits.grad_norm == math.inf


def test_a_few_bad_steps_move_no_limit_and_many_are_the_new_usual():
    judge = guards()
    for step in range(101, 111):
        assert judge.judge(step, 50.0, 0.5) is not None
    assert judge.limits.loss < 3.5
    for step in range(111, 170):
        judge.judge(step, 50.0, 0.5)
    assert judge.judge(170, 50.0, 0.5) is None


@pytest.mark.parametrize("loss, norm, words", [(math.nan, 0.5, "the loss is nan"), (2.0, math.inf, "norm is inf")])
def test_what_is_not_finite_is_a_fault_from_the_first_step_on_and_enters_no_median(loss, norm, words):
    judge = guards([])
    fault = judge.judge(1, loss, norm)
    assert fault is not None and fault.policy == "stop" and words in fault.in_words()
    assert len(judge.losses) + len(judge.norms) == 1
    assert json.loads(json.dumps(judge.take_unrecorded(), allow_nan=False))[0]["value"] in ("nan", "inf")


def test_the_gravest_of_several_policies_decides_and_an_ignored_one_is_no_fault():
    assert guards(grad_norm_policy="stop").judge(101, 50.0, 50.0).policy == "stop"
    assert guards(loss_spike_policy="rollback").judge(101, 50.0, 50.0).policy == "rollback"
    assert guards(loss_spike_policy="ignore").judge(101, 50.0, 50.0).what == "grad_norm"
    assert guards(loss_spike_policy="ignore", grad_norm_policy="ignore").judge(101, 50.0, 50.0) is None


def test_updates_left_out_are_counted_while_they_are_in_a_row():
    judge = guards()
    counts = [
        (judge.judge(step, loss, 0.5), judge.skipped_in_a_row)[1] for step, loss in ((101, 9), (102, 9), (103, 2))
    ]
    assert counts == [1, 2, 0]


def test_a_norm_of_a_scaled_loss_is_not_judged():
    assert guards().judge(101, 2.0, None) is None


def test_an_update_is_left_out_above_what_skip_decides_alone():
    assert guards(loss_spike_policy="stop", grad_norm_policy="ignore").skip_above() is None
    above = guards(loss_spike_policy="stop").skip_above()
    assert above.grad_norm == pytest.approx(5.0) and 1e38 < above.loss < math.inf


def test_a_run_that_goes_on_judges_as_if_it_had_never_stopped():
    first, second = guards(), Guards(SKIP, window=100, zscore=6.0, norm_factor=10.0)
    first.judge(101, 9.0, 0.5)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.limits == first.limits
    assert second.state() == first.state() and second.skipped_in_a_row == 1
