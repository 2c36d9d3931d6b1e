"""Reading training state without bringing anything to life that could run as code.

HF reads with `weights_only`. What torch.distributed.checkpoint writes for shards it does not: their index is a pickle,
and so is every value that is no tensor.
"""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.distributed.checkpoint.api import CheckpointException

from hfgpt.errors import UserError

# The classes of an index of shards (torch/distributed/checkpoint/metadata.py and filesystem.py).
OF_AN_INDEX = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "BytesStorageMetadata"),
        *("ChunkStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
    "pathlib": {"Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "collections": {"OrderedDict"},
}
FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch.load then reads numbers alone, whatever its caller asked for


@contextmanager
def numbers_only(checkpoint: str | None) -> Iterator[None]:
    """What is read of `checkpoint` inside is refused by a UserError where it holds objects beside numbers and text."""
    before = os.environ.get(FORCED)
    os.environ[FORCED] = "1"
    try:
        for index in Path(checkpoint).glob("*/.metadata") if checkpoint else ():
            with index.open("rb") as file:
                _Index(file).load()
        yield
    except (pickle.UnpicklingError, CheckpointException) as error:
        if isinstance(error, CheckpointException) and not _was_refused(error):
            raise
        raise UserError(
            f"{checkpoint}: its training state holds objects that hfgpt does not write, and none are loaded: go on "
            "from a checkpoint of your own."
        ) from error
    finally:
        if before is None:
            del os.environ[FORCED]
        else:
            os.environ[FORCED] = before


def _was_refused(error: CheckpointException) -> bool:
    """Whether it was in any process that an object was not read."""
    return any(isinstance(failure[0], pickle.UnpicklingError) for failure in error.failures.values())


class _Index(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if name not in OF_AN_INDEX.get(module, ()):
            raise pickle.UnpicklingError(f"an index of shards has no {module}.{name}")
        return super().find_class(module, name)
