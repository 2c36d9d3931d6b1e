"""What a stage trained with: Python, packages, processor and accelerator. Never whose machine it was: no hostname, no
path."""

import platform
from importlib.metadata import PackageNotFoundError, version

from hfgpt.cores import available_cores

ENVIRONMENT_FILE = "environment.json"
PACKAGES = ("hfgpt", "torch", "transformers", "trl", "accelerate", "datasets", "tokenizers", "lm_eval")


def environment(num_processes: int | None = None) -> dict[str, str]:
    """Names and versions as they are now; `num_processes` trained together."""
    found = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found |= {"cores": str(available_cores()), "accelerator": _accelerator()}
    return found if num_processes is None else found | {"processes": str(num_processes)}


def _accelerator() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none"
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
