"""Two processes guard their steps together: what one of them reads, or holds, is seen by both and acted on by both."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from commands import REPOSITORY, succeed

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("guard_worker.py")
LAUNCHERS: dict[str, list] = {
    "replicas": ["torchrun", "--standalone", "--nproc_per_node", "2"],
    "sharded by FSDP2": [
        "accelerate",
        "launch",
        "--config_file",
        REPOSITORY / "accelerate_configs" / "fsdp2.yaml",
        "--num_processes",
        "2",
    ],
}


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> Callable[[str], list[dict]]:
    """What either process says, by the kind of processes that they are."""

    @cache
    def both(kind: str) -> list[dict]:
        folder = tmp_path_factory.mktemp("guarded")
        port = ["--main_process_port", "0"] if kind != "replicas" else []
        succeed(*LAUNCHERS[kind], *port, WORKER, folder, OMP_NUM_THREADS="1")
        return json.loads((folder / "result.json").read_text())

    return both


@pytest.mark.parametrize("kind", LAUNCHERS)
def test_an_update_is_left_out_by_both_where_the_rows_of_one_are_strange(told, kind):
    both = told(kind)
    for process in both:
        assert process["strange"]["is_sharded"] == (kind != "replicas")
        assert process["strange"]["unchanged"] and process["strange"]["goes_on"]
        assert process["strange"]["fault_steps"] == [81]
    assert both[0]["strange"]["weights"] == both[1]["strange"]["weights"]


def test_a_bit_that_flipped_in_one_stops_both_and_names_it(told):
    for process in told("replicas"):
        assert "process 1 holds other weights than process 0 at step 4: go on from the last" in process["flipped"]
        assert process["flipped"].startswith("step 5: ")  # one step late, as everything that is read


def test_what_one_was_told_after_the_last_step_both_know(told):
    assert [process["told"] for process in told("replicas")] == [True, True]
