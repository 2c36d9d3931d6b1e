"""The machine and the versions that a figure was measured with."""

import datetime
import os
import platform

from hfgpt.cores import available_cores
from hfgpt.package_versions import installed_versions

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "tiktoken")  # that decide speed


def describe_machine() -> str:
    """One line: date, processor, cores, Python and the packages that decide speed."""
    versions = ", ".join(f"{name} {number}" for name, number in package_versions().items())
    return (
        f"{datetime.date.today()}, {processor_name()}, {available_cores()} cores, "
        f"Python {platform.python_version()}, {versions}."
    )


def package_versions() -> dict[str, str]:
    """Installed versions of what decides speed; what is not installed is left out."""
    return installed_versions(PACKAGES)


def processor_name() -> str:
    """The CPU's name as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            named = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        named = []
    return named[0] if named else platform.processor()


def load_average() -> float | None:
    """Processes that wanted a core over the last minute, of a system that counts them."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
