"""Muon shared out over three gloo processes: the numbers of one process, each matrix orthogonalised by one of them."""

import json
from pathlib import Path

import pytest
from commands import succeed

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("muon_worker.py")


@pytest.fixture(scope="module")
def result() -> dict:
    done = succeed("torchrun", "--nproc_per_node", "3", WORKER, OMP_NUM_THREADS="1")
    assert "Warning" not in done.stderr.replace("OMP_NUM_THREADS", "")
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_three_processes_take_the_steps_of_one(result, kind):
    assert result[kind] < 1e-5


def test_replicas_stay_bit_identical(result):
    assert result["between_replicas"] == 0


def test_each_matrix_is_orthogonalised_once(result):
    assert result["whole_stack"] == 4
    assert result["owned"] == [2, 2, 0]  # of four matrices, by three processes
    assert result["at_work"] == 6  # an all-gather wants as many from each: two of them blank


@pytest.mark.parametrize("split", ["columns", "copies", "grid"])
def test_other_ways_to_split_a_matrix_are_refused_in_one_sentence(result, split):
    assert result[split].startswith("muon trains whole matrices or rows sharded over one mesh dimension (FSDP2), not")
    assert result[split].endswith("launch with accelerate_configs/fsdp2.yaml, or set optim.")
