"""A step's time is told apart by phase, without leaving any of it out and without waiting for the device."""

import time

import pytest
import torch

from hfgpt.training.hardware import peak_memory_bytes
from hfgpt.training.step_timing import MEASURED_STEPS, PHASE_SECONDS, StepTimer

CPU = torch.device("cpu")


def make_step(timer: StepTimer, **seconds: float) -> None:
    for phase in ("data", "forward", "backward", "optimizer"):
        timer.begin(phase)
        time.sleep(seconds.get(phase, 0.0))
    timer.end_step()


def test_each_phase_gets_its_own_time():
    timer = StepTimer(CPU)
    for _ in range(2):
        make_step(timer, data=0.01, forward=0.03, backward=0.06, optimizer=0.02)
        time.sleep(0.1)  # between steps: an evaluation, a checkpoint
    seconds = timer.read()
    assert set(seconds) == set(PHASE_SECONDS)
    assert [seconds[name] for name in PHASE_SECONDS] == pytest.approx([0.01, 0.03, 0.06, 0.02], abs=0.008)


def test_accumulation_adds_up_within_a_step():
    timer = StepTimer(CPU)
    timer.begin("data")
    for _ in range(3):
        timer.begin("forward")
        time.sleep(0.01)
        timer.begin("backward")
        time.sleep(0.02)
    timer.begin("optimizer")
    timer.end_step()
    seconds = timer.read()
    assert 0.03 <= seconds["forward_seconds"] < 0.05 and 0.06 <= seconds["backward_seconds"] < 0.09


def test_a_reading_begins_anew_and_a_step_under_way_is_not_in_it():
    timer = StepTimer(CPU)
    assert timer.read() == {}
    make_step(timer, forward=0.01)
    timer.begin("data")
    assert timer.read()["forward_seconds"] > 0
    assert timer.read() == {}


def test_only_the_first_steps_after_a_reading_are_measured():
    timer = StepTimer(CPU)
    for _ in range(MEASURED_STEPS):
        make_step(timer)
    make_step(timer, forward=1.0)
    assert timer.read()["forward_seconds"] < 0.1


def test_peak_memory_rises_with_what_is_held_and_does_not_fall():
    before = peak_memory_bytes(CPU)
    held = torch.ones(2**26)  # 256 MiB
    peak = peak_memory_bytes(CPU)
    del held
    slack = 2**22  # Linux counts pages by processor and adds them up now and then
    assert peak >= before - slack and peak_memory_bytes(CPU) >= peak - slack
    assert peak >= 2**28


@pytest.mark.gpu
def test_on_a_gpu_phases_are_the_devices_own_time():
    timer = StepTimer(torch.device("cuda"))
    matrix = torch.ones(4096, 4096, device="cuda")
    for _ in range(3):
        timer.begin("data")
        timer.begin("forward")
        for _ in range(50):
            matrix @ matrix
        timer.begin("backward")
        timer.begin("optimizer")
        timer.end_step()
    torch.cuda.synchronize()
    seconds = timer.read()
    assert seconds["forward_seconds"] > 10 * seconds["backward_seconds"] > 0
