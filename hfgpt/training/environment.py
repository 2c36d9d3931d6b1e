"""What a stage trained with: Python, packages, processor and accelerator. Never whose machine it was: no hostname, no
path."""

import platform

from hfgpt.cores import available_cores
from hfgpt.package_versions import STACK, installed_versions

ENVIRONMENT_FILE = "environment.json"


def environment(num_processes: int | None = None) -> dict[str, str]:
    """Names and versions as they are now; `num_processes` trained together."""
    found = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    found |= installed_versions(("hfgpt", *STACK))
    found |= {"cores": str(available_cores()), "accelerator": _accelerator()}
    return found if num_processes is None else found | {"processes": str(num_processes)}


def _accelerator() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none"
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
