"""Failures of a run that its user can mend, in one sentence each: memory that ran out, a loader that was killed."""

import re
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import queues

from accelerate.utils.memory import should_reduce_batch_size
from torch.utils.data import dataloader
from torch.utils.data._utils import signal_handling
from transformers import Trainer

from hfgpt.errors import UserError
from hfgpt.training.activations import AttentionKernel
from hfgpt.training.arguments import PretrainArguments, StageArguments
from hfgpt.training.memory import Process, training_memory

GO_ON = "the same command (without --overwrite) goes on from the last checkpoint"
# "2.00 GiB" as CUDA's allocator and numpy write it, "123456 bytes" as the CPU's does.
_ASKED_FOR = re.compile(r"(?:tried to|unable to) allocate ([\d.]+) (\w+)", re.IGNORECASE)
_LEFT = re.compile(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free")


@contextmanager
def explained_failures(trainer: Trainer, args: StageArguments) -> Iterator[None]:
    """Turn what the surroundings do to a run into a UserError; everything else passes through."""
    _let_loaders_tell()
    try:
        yield
    except (RuntimeError, MemoryError, ConnectionError, EOFError) as error:
        if isinstance(error, MemoryError) or should_reduce_batch_size(error):
            raise UserError(out_of_memory(trainer, args, str(error))) from error
        if _is_of_a_dead_loader(error):
            raise UserError(
                f"a process that loads data has died at step {trainer.state.global_step + 1}, mostly since the "
                "machine's memory, or its /dev/shm, was full: lower dataloader_num_workers if it comes again; "
                f"{GO_ON}."
            ) from error
        raise


def _is_of_a_dead_loader(error: Exception) -> bool:
    """Whether torch says so, or the connection to a process of a loader broke, over which its tensors come. What a
    living one raises begins with "Caught"."""
    if isinstance(error, RuntimeError):
        return re.search(r"DataLoader worker \(pid.*(killed|exited)", str(error)) is not None
    frames = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return dataloader.__file__ in frames and queues.__file__ in frames and not str(error).startswith("Caught")


def _let_loaders_tell() -> None:
    """Have the death of a loader's process told where its data are waited for, which is within five seconds.

    torch's handler of SIGCHLD would raise in the midst of anything, such as a save, and then again in what follows.
    """
    signal_handling._SIGCHLD_handler_set = True
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def out_of_memory(trainer: Trainer, args: StageArguments, message: str) -> str:
    """What the allocator's `message` says was asked for, what the plan had estimated, and the three keys to change,
    the one that costs least first."""
    words = f"out of memory at step {trainer.state.global_step + 1}"
    if asked := _ASKED_FOR.search(message):
        words += f": {_readable(asked[1], asked[2])} more were asked for"
    if left := _LEFT.search(message):
        words += f" when {left[2]} of {left[1]} were free"
    if trainer.model is not None and not trainer.model.training:
        return f"{words}, in an evaluation: lower per_device_eval_batch_size or eval_tasks_batch_size; {GO_ON}."
    process = _process(trainer, args)
    estimate = (
        _peak(trainer, process) if isinstance(args, PretrainArguments) else None
    )  # TRL does more than is planned
    if estimate is not None:
        words += f"; `hfgpt plan` estimates {_gib(estimate)}"
    ways = []
    if rows := process.rows // 2:
        fewer = replace(process, rows=rows, accumulates=True)
        made_up = "accumulation makes up for it" if estimate else "twice gradient_accumulation_steps makes up for it"
        ways.append((f"set per_device_train_batch_size to {rows}", fewer, made_up))
    if not process.activation_checkpointing:
        recomputed = replace(process, activation_checkpointing=True)
        ways.append(("set activation_checkpointing to true", recomputed, "a third more computing"))
    ways.append((f"halve {args.length_key}", replace(process, max_length=process.max_length // 2), "a new run"))
    told = []
    for way, changed, price in ways:
        if estimate is None:
            told.append(f"{way} ({price})")
        elif (peak := _peak(trainer, changed)) < estimate:
            told.append(f"{way} ({_gib(peak)}, {price})")
    return f"{words}: {', or '.join(told)}; {GO_ON}."


def _peak(trainer: Trainer, process: Process) -> int:
    """Bytes by the plan."""
    architecture = trainer.accelerator.unwrap_model(trainer.model).config.to_dict()
    return training_memory(architecture, process).peak


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"


def _process(trainer: Trainer, args: StageArguments) -> Process:
    """How this run trains, as the plan counts it."""
    config = trainer.accelerator.unwrap_model(trainer.model).config
    kernels: dict[str, AttentionKernel] = {"eager": "eager", "sdpa": "sdpa"}
    return Process(
        rows=args.per_device_train_batch_size,
        max_length=config.max_position_embeddings,
        optimizer=args.optimizer_name,
        galore=args.galore,
        num_processes=args.world_size,
        strategy="fsdp2" if trainer.is_fsdp_enabled else "ddp",
        on_gpu=args.device.type == "cuda",
        bf16=bool(args.bf16),
        fp8=args.fp8,
        activation_checkpointing=bool(args.activation_checkpointing),
        accumulates=args.gradient_accumulation_steps > 1,
        attention=kernels.get(config._attn_implementation, "flash"),
        torch_compile=bool(args.torch_compile),
    )


def _readable(number: str, unit: str) -> str:
    return _gib(float(number)) if unit == "bytes" else f"{number} {unit}"
