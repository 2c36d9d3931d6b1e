"""What this machine can do: the dense peak of its accelerator, and a training process's CPU threads and memory."""

import ctypes
import os
import platform
import sys
from pathlib import Path

import torch

from hfgpt.cores import available_cores
from hfgpt.training.accelerators import find_accelerator

# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def dense_peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 peak of one device in FLOP/s, or None where it is not known."""
    accelerator = find_accelerator(device_name)
    return accelerator.bf16_flops if accelerator else None


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this process has held so far: allocated on the GPU, or resident where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":  # where getrusage also counts what the parent held when it started this process
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def prepare_cpu() -> None:
    """On a CPU, give each training process its share of the cores, and round what is nearly 0 (1e-38) to 0.

    Launchers set OMP_NUM_THREADS to 1 where nobody did, which halved the speed of the recipe `tiny` on two cores.
    Without a launcher the user's own setting stands. The averages that AdamW keeps for a token that no longer comes
    fade through such numbers, which a CPU adds at a tenth of its speed.
    """
    torch.set_flush_denormal(True)
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if launched and os.environ.get("OMP_NUM_THREADS") == "1":
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, available_cores() // processes))


def keep_freed_memory() -> bool:
    """Let this process keep memory that a step frees for the next one; returns whether its C library can.

    glibc gives large tensors pages of their own, which go back to the system with the tensor: a CPU then spends a part
    of every step on clearing pages that it had a moment before (benchmarks/cpu_memory.md). The peak stays, but what is
    free between peaks is no other process's.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
