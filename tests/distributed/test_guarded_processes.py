"""Two processes guard their steps together: what one of them reads, or holds, is seen by both and acted on by both."""

import json
from pathlib import Path

import pytest
from commands import succeed

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("guard_worker.py")


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> list[dict]:
    """What either process says."""
    folder = tmp_path_factory.mktemp("guarded")
    succeed("torchrun", "--standalone", "--nproc_per_node", "2", WORKER, folder, OMP_NUM_THREADS="1")
    return json.loads((folder / "result.json").read_text())


def test_an_update_is_left_out_by_both_where_the_rows_of_one_are_strange(both):
    for process in both:
        assert process["strange"]["unchanged"] and process["strange"]["goes_on"]
        assert process["strange"]["fault_steps"] == [81]
    assert both[0]["strange"]["weights"] == both[1]["strange"]["weights"]


def test_a_bit_that_flipped_in_one_stops_both_and_names_it(both):
    for process in both:
        assert "process 1 holds other weights than process 0 at step 4: go on from the last" in process["flipped"]
        assert process["flipped"].startswith("step 5: ")  # one step late, as everything that is read
