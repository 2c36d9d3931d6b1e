"""Dense peaks of known accelerators, so that MFU says what it was divided by; an unknown device has none."""

import re

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
