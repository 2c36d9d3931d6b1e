"""What the machine can do: dense peaks of known accelerators, and the CPU threads of a training process."""

import os
import re

import torch

from hfgpt.cores import available_cores

# Dense bfloat16 FLOP/s from each vendor's data sheet, without sparsity; the first name that fits a device wins.
DENSE_BF16_PEAKS = (
    ("GB200", 2.5e15),
    ("B200", 2.25e15),
    ("GH200", 989e12),
    ("H200", 989e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("A40", 149.7e12),
    ("A10G", 70e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("RTX 5090", 209.5e12),
    ("RTX 4090", 165.2e12),
    ("RTX 3090", 71e12),
    ("MI300X", 1307e12),
)


def dense_peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 peak of one device in FLOP/s, or None where it is not known."""
    if re.search(r"laptop|max-q", device_name, re.IGNORECASE):
        return None  # slower chips under the same name
    for name, peak in DENSE_BF16_PEAKS:
        if re.search(rf"\b{name}\b", device_name, re.IGNORECASE):
            return peak
    return None


def use_all_cores() -> None:
    """On a CPU, give each training process its share of the cores.

    Launchers set OMP_NUM_THREADS to 1 where nobody did, which halved the speed of the recipe `tiny` on two cores.
    Without a launcher the user's own setting stands.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if launched and os.environ.get("OMP_NUM_THREADS") == "1":
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, available_cores() // processes))
