"""One of two gloo processes that train together: first with strange rows that only the second of them reads, then, as
replicas, with a weight in which one bit of the second flips, and with a signal to it alone. Writes what came of it as
FOLDER/result.json: `torchrun guard_worker.py FOLDER`, or `accelerate launch guard_worker.py FOLDER` to shard by
FSDP2."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate.state import PartialState
from accelerate.utils.environment import parse_flag_from_env
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainingArguments

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fsdp2_on_cpu import init_as_if_on_gpus  # noqa: E402
from guarded_run import ROWS, Snapshots, StepRows, everything, faults, guarded_trainer, same  # noqa: E402

from hfgpt.errors import UserError  # noqa: E402
from hfgpt.training.preemption import StopRequest, StopWhenTold  # noqa: E402

BAD, STEPS = 81, 84


def with_strange_rows(folder: Path) -> dict:
    rows = StepRows(STEPS, strange=[BAD], rows_per_step=2 * ROWS, strange_from=ROWS)
    trainer = guarded_trainer(folder, rows, max_steps=STEPS)
    snapshots = Snapshots(trainer, [BAD - 1, BAD, BAD + 1])
    trainer.add_callback(snapshots)
    trainer.train()
    after = snapshots.after
    return {
        "unchanged": same(after[BAD - 1], after[BAD]),
        "goes_on": not same(after[BAD], after[BAD + 1]),
        "weights": [weight.sum().item() for weight in everything(trainer).values()],
        "is_sharded": any(isinstance(weight, DTensor) for weight in trainer.model.parameters()),
        "fault_steps": [fault["step"] for fault in faults(folder)],
    }


class FlippedBit(TrainerCallback):
    """A weight of the second process changes in one bit after the third step."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if args.process_index == 1 and state.global_step == 3:
            next(model.parameters()).data.view(torch.int32)[0, 0] ^= 1


def with_a_flipped_bit(folder: Path) -> str:
    trainer = guarded_trainer(folder, StepRows(20, rows_per_step=2 * ROWS), max_steps=20, rank_check_steps=4)
    trainer.add_callback(FlippedBit())
    try:
        trainer.train()
    except UserError as error:
        return f"step {trainer.state.global_step}: {error}"
    return "nothing was seen"


def told_alone() -> bool:
    """Whether this process knows, after the last step, what the second was told."""
    request = StopRequest(speaks=False)
    if dist.get_rank() == 1:
        request.listen()
        os.kill(os.getpid(), signal.SIGTERM)
    return StopWhenTold(request).is_agreed_now(TrainingArguments(use_cpu=True))


def main() -> None:
    folder = Path(sys.argv[1])
    is_sharded = parse_flag_from_env("ACCELERATE_USE_FSDP")
    if is_sharded:
        PartialState.__init__ = init_as_if_on_gpus  # type: ignore[method-assign]
    mine: dict = {"strange": with_strange_rows(folder / "strange")}
    if not is_sharded:
        mine["flipped"] = with_a_flipped_bit(folder / "flipped")
        mine["told"] = told_alone()
    both: list = [None, None]
    dist.all_gather_object(both, mine)
    if dist.get_rank() == 0:
        (folder / "result.json").write_text(json.dumps(both))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
