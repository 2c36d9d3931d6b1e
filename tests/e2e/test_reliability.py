"""Runs that are killed go on to the end they would have had; tests/reliability.py in a short form."""

import pytest
from reliability import try_both_stages

pytestmark = pytest.mark.slow


def test_runs_that_are_killed_four_times_end_as_the_run_that_nobody_killed():
    for outcome in try_both_stages(kills=4, seed=1).values():
        assert outcome.kills == outcome.resumed == 2
        assert outcome.inside_a_save >= 1
        assert outcome.bit_identical == outcome.same_records == outcome.runs
        assert max(outcome.steps_lost) <= 14  # a checkpoint every 7 steps, the last of them not finished yet
