"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # the Hub's stand-in speaks plain HTTP and LFS

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items):
    """Tests marked `gpu` skip without a CUDA device."""
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
