"""Fixtures that every test may use."""

import os
import sys
from pathlib import Path

import pytest
from filelock import FileLock

os.environ.setdefault("HF_HUB_OFFLINE", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # the Hub's stand-in speaks plain HTTP and LFS

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure():
    """Where `pytest -n` runs several workers, each keeps to its own cores, and so do the processes it starts: torch's
    threads wait for each other, and share a core badly."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        own = cores[int(worker.removeprefix("gw")) % len(cores) :: workers]
        os.sched_setaffinity(0, own)


def pytest_collection_modifyitems(items):
    """What needs the tiny run comes last, but for the file that makes it, which takes longest and comes first: so no
    worker waits for it. Tests marked `gpu` skip without a CUDA device."""
    items.sort(key=lambda item: -1 if item.path.name == "test_tiny_run.py" else "tiny_run" in item.fixturenames)
    for_gpus = [item for item in items if item.get_closest_marker("gpu")]
    if not for_gpus:
        return
    import torch

    if not torch.cuda.is_available():
        for item in for_gpus:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real corpora kept beside the checkout (never committed); tests that need them skip where they are absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real corpora are not beside this checkout (../shared/data)")
    return folder


@pytest.fixture
def hub_server():
    """The Hub's stand-in over real HTTP (hub_server.py): `.url`, `.env(tmp_path)`, `.add_dataset`, `.faults`."""
    from hub_server import HubServer

    with HubServer() as hub:
        yield hub


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """The recipe `tiny`, all its stages, run once as `make demo` runs it: (folder of the run, what it printed)."""
    from commands import succeed

    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "runs"  # the parent is all workers' own
    printed = root / "printed.txt"
    with FileLock(f"{root}.lock"):
        if not printed.exists():
            done = succeed("hfgpt", "run", "recipes/tiny.yaml", "--output_root", root, timeout=3000)
            printed.write_text(done.stdout, encoding="utf-8")
    return root / "tiny", printed.read_text(encoding="utf-8")
