"""Cores, memory, disks and folders: whether there is room to work, and leave to write."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from hfgpt.bench.machine import processor_name
from hfgpt.cores import available_cores
from hfgpt.doctor.findings import Finding

GB = 1e9
MIN_FREE_BYTES = 1 * GB  # a run of the recipe `tiny` leaves 0.13 GB
FEW_FREE_BYTES = 20 * GB  # three checkpoints of a model of 400 million parameters, 16 bytes each
MIN_MEMORY_BYTES = 2 * GB  # the trial of a model of 0.1 million parameters takes 0.7
MIN_SHARED_BYTES = 1 * GB  # containers have 64 MB unless told otherwise
SHARED_MEMORY = Path("/dev/shm")


def check_memory() -> Iterator[Finding]:
    """Cores and memory; the memory that data loaders share."""
    memory = psutil.virtual_memory()
    found = f"{processor_name()}, {available_cores()} cores, {_size(memory.available)} of {_size(memory.total)} free"
    if memory.available < MIN_MEMORY_BYTES:
        remedy = "end other programs: with less than 2 GB even a small model may not train"
        yield Finding("memory", "warning", found, remedy)
    else:
        yield Finding("memory", "ok", found)
    if SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(SHARED_MEMORY).free
        if free < MIN_SHARED_BYTES:
            remedy = "start the container with --shm-size 8g, or train with dataloader_num_workers: 0"
            yield Finding("memory", "warning", f"{_size(free)} of shared memory for data loaders", remedy)


def check_folder(what: str, folder: Path) -> Iterator[Finding]:
    """Whether files can be written to `folder`, where it is or would be made, and how many bytes are free there."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    shown = f"{folder.absolute()} ({what})"
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".hfgpt-doctor-") as file:
            file.write(b"x" * 4096)
            file.flush()
    except OSError as error:
        remedy = f"give yourself leave to write to {there}, or choose another folder by {_chosen_by(what)}"
        yield Finding("disk", "failed", f"cannot write to {shown}: {error.strerror}", remedy)
        return
    free = shutil.disk_usage(there).free
    found = f"{_size(free)} free in {shown}"
    remedy = f"make room, or choose another folder by {_chosen_by(what)}"
    if free < MIN_FREE_BYTES:
        yield Finding("disk", "failed", found, remedy)
    elif free < FEW_FREE_BYTES:
        yield Finding("disk", "warning", found, f"enough for small models; for large ones {remedy}")
    else:
        yield Finding("disk", "ok", found)


def _chosen_by(what: str) -> str:
    return {"runs": "--output_root", "downloads": "the variable HF_HOME"}.get(what, "the variable TMPDIR")


def _size(number: float) -> str:
    return f"{number / GB:,.1f} GB"
