"""The machine and the versions that a figure was measured with, for the end of every benchmark report."""

from hfgpt.bench.machine import describe_machine

__all__ = ["describe_machine"]
