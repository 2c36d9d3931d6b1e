"""Runs a stage as `accelerate launch` would under FSDP2, over gloo: `fsdp2_on_cpu.py pretrain RECIPE --use_cpu ...`.

accelerate shards over GPUs only and quietly trains plain DDP on CPUs. Told that its processes have GPUs, it shards;
everything after that is as on GPUs, but for the speed.
"""

import functools
import importlib
import sys

from accelerate.state import DistributedType, PartialState

from hfgpt.errors import run_command
from hfgpt.model import GPTForCausalLM

_init = PartialState.__init__
_forward = GPTForCausalLM.forward


def init_as_if_on_gpus(self, *args, **kwargs):
    _init(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


@functools.wraps(_forward)
def forward_that_tells(self, *args, **kwargs):
    """The first pass with a loss says whether it built logits."""
    outputs = _forward(self, *args, **kwargs)
    if self.training and outputs.loss is not None and not hasattr(self, "told"):
        self.told = True
        print(f"\nlogits in training: {'none' if outputs.logits is None else 'all'}", flush=True)
    return outputs


if __name__ == "__main__":
    PartialState.__init__ = init_as_if_on_gpus
    GPTForCausalLM.forward = forward_that_tells
    stage = importlib.import_module(f"hfgpt.{sys.argv[1]}")
    sys.exit(run_command(stage.main, sys.argv[2:]))
