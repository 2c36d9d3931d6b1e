"""Runs a stage as `accelerate launch` would under FSDP2, over gloo: `fsdp2_on_cpu.py pretrain RECIPE --use_cpu ...`.

accelerate shards over GPUs only and quietly trains plain DDP on CPUs. Told that its processes have GPUs, it shards;
everything after that is as on GPUs, but for the speed.
"""

import importlib
import sys

from accelerate.state import DistributedType, PartialState

from hfgpt.errors import run_command

_init = PartialState.__init__


def init_as_if_on_gpus(self, *args, **kwargs):
    _init(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState.__init__ = init_as_if_on_gpus
    stage = importlib.import_module(f"hfgpt.{sys.argv[1]}")
    sys.exit(run_command(stage.main, sys.argv[2:]))
