"""Fixtures that every test may use."""

import os
import sys
from pathlib import Path

import pytest

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


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the groups
def pytest_collection_modifyitems(items):
    """One worker runs a file from its first test to its last, and one all that need the tiny run, which is made once
    and begins first, being the longest. Tests marked `gpu` skip without a CUDA device."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: "tiny_run" not in item.fixturenames)
        for item in items:
            of_tiny_run = "tiny_run" in item.fixturenames
            item.add_marker(pytest.mark.xdist_group("tiny_run" if of_tiny_run else str(item.path)))
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

    root = tmp_path_factory.mktemp("runs")
    done = succeed("hfgpt", "run", "recipes/tiny.yaml", "--output_root", root, timeout=3000)
    return root / "tiny", done.stdout
