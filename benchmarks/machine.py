"""The machine and the versions that a figure was measured with, for the end of every benchmark report."""

import datetime
import os
import platform
from importlib.metadata import version


def describe_machine() -> str:
    """One line: date, processor, cores, Python and the packages that decide speed."""
    packages = ("torch", "transformers", "datasets", "tokenizers", "tiktoken")
    processor = next(
        (line.split(":")[1].strip() for line in _cpu_info() if line.startswith("model name")), platform.processor()
    )
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    cores = len(os.sched_getaffinity(0))
    return f"{datetime.date.today()}, {processor}, {cores} cores, Python {platform.python_version()}, {versions}."


def _cpu_info() -> list[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return file.read().splitlines()
    except OSError:
        return []
