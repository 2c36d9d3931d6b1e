"""How many CPU cores this process may use."""

import os


def available_cores() -> int:
    """Cores that the process may run on; all of the machine's where the system does not say."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
