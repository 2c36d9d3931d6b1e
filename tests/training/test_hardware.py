"""An accelerator's peak is known or it is not: names that only look alike have none. A CPU is prepared once."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from hfgpt.training.hardware import dense_peak_flops


def huge_pages() -> str:
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return path.read_text() if path.is_file() else ""


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA RTX A4000", None),
        ("Tesla T4", None),
    ],
)
def test_peaks_go_by_whole_names(name, peak):
    assert dense_peak_flops(name) == peak


def largest_of_many_denormals(preparation: str) -> float:
    """What a fresh process makes of numbers that are nearly 0: the setting is the process's, not the test's own."""
    code = (
        f"import torch; from hfgpt.training.hardware import prepare_cpu; {preparation}; "
        "print((torch.full((100_000,), 1e-38) * 0.01).max().item())"  # large enough for every thread to take part
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_a_cpu_that_is_prepared_rounds_to_zero_what_would_slow_it_down():
    assert largest_of_many_denormals("pass") > 0
    assert largest_of_many_denormals("prepare_cpu()") == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
@pytest.mark.skipif("[always]" in huge_pages(), reason="this system gives large tensors few pages of 2 MiB")
def test_memory_that_was_freed_is_there_for_the_next_step_without_new_pages():
    assert pages_of_eight_more_tensors("pass") > 8 * 1000  # 64 MiB are 16,384 pages of 4 KiB
    assert pages_of_eight_more_tensors("assert keep_freed_memory()") < 1000


def pages_of_eight_more_tensors(preparation: str) -> int:
    """Pages that the system gives a fresh process for eight tensors of 64 MiB, one after the other, when sixteen like
    them were made and freed before."""
    code = f"""
import resource, torch
from hfgpt.training.hardware import keep_freed_memory
{preparation}
for number in range(24):
    if number == 16:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24).sum()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)
