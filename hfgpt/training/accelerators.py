"""What known accelerators can do: dense peaks, memory and bandwidth, from their vendors' data sheets. No torch."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Accelerator:
    """One device. `fp8_flops` is None where it has no fp8 units; peaks are dense, without sparsity."""

    name: str
    bf16_flops: float  # FLOP/s with float32 accumulation
    fp8_flops: float | None
    memory_bytes: int
    bandwidth: float  # bytes/s of its memory


GB = 10**9
GIB = 2**30
TERA = 10**12

# A data sheet's "80 GB" is 80 GiB on some cards and 80e9 bytes on others: here what the driver reports, nearly. The
# first name that fits a device wins.
ACCELERATORS = (
    Accelerator("GB200", 2500 * TERA, 5000 * TERA, 186 * GB, 8.0 * TERA),
    Accelerator("B200", 2250 * TERA, 4500 * TERA, 180 * GB, 8.0 * TERA),
    Accelerator("GH200", 989 * TERA, 1979 * TERA, 96 * GB, 4.0 * TERA),
    Accelerator("H200 NVL", 835 * TERA, 1671 * TERA, 141 * GB, 4.8 * TERA),
    Accelerator("H200", 989 * TERA, 1979 * TERA, 141 * GB, 4.8 * TERA),
    Accelerator("H100 NVL", 835 * TERA, 1671 * TERA, 94 * GB, 3.9 * TERA),
    Accelerator("H100 PCIe", 756 * TERA, 1513 * TERA, 80 * GIB, 2.0 * TERA),
    Accelerator("H100", 989 * TERA, 1979 * TERA, 80 * GIB, 3.35 * TERA),
    Accelerator("A100 40GB", 312 * TERA, None, 40 * GIB, 1.555 * TERA),
    Accelerator("A100", 312 * TERA, None, 80 * GIB, 2.039 * TERA),
    Accelerator("A40", 149.7 * TERA, None, 48 * GB, 0.696 * TERA),
    Accelerator("A10G", 70 * TERA, None, 24 * GB, 0.6 * TERA),
    Accelerator("L40S", 362 * TERA, 733 * TERA, 48 * GB, 0.864 * TERA),
    Accelerator("L40", 181 * TERA, 362 * TERA, 48 * GB, 0.864 * TERA),
    Accelerator("L4", 121 * TERA, 242 * TERA, 24 * GB, 0.3 * TERA),
    Accelerator("RTX 5090", 209.5 * TERA, 419 * TERA, 32 * GIB, 1.792 * TERA),
    Accelerator("RTX 4090", 165.2 * TERA, 330.3 * TERA, 24 * GIB, 1.008 * TERA),
    Accelerator("RTX 3090", 71 * TERA, None, 24 * GIB, 0.936 * TERA),
    Accelerator("MI300X", 1307 * TERA, 2615 * TERA, 192 * GB, 5.3 * TERA),
)


def find_accelerator(device_name: str) -> Accelerator | None:
    """The accelerator that a device's own name ("NVIDIA H100 80GB HBM3") or a user's ("h100") means, or None."""
    if re.search(r"laptop|max-q|\bmig\b|4090[\s_-]?D\b", device_name, re.IGNORECASE):
        return None  # slower chips, or parts of one, under the same name
    words = re.sub(r"(rtx)(?=\d)", r"\1 ", re.sub(r"[\s_-]+", " ", device_name), flags=re.IGNORECASE)
    for accelerator in ACCELERATORS:
        parts = [rf"\b{re.escape(part)}\b" for part in accelerator.name.split(" ")]
        if all(re.search(part, words, re.IGNORECASE) for part in parts):
            return accelerator
    return None
