"""Runs of a real trainer on a model of a thousand weights, whose rows of any step can be made bad on purpose."""

from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, set_seed
from transformers.trainer_callback import PrinterCallback

from hfgpt.model import GPTConfig, GPTForCausalLM
from hfgpt.training.arguments import PretrainArguments
from hfgpt.training.record import RunRecord, read_records
from hfgpt.training.trainer import PackedRowsTrainer

VOCAB, LENGTH, ROWS = 32, 16, 4
LEARNT = 8  # tokens that come up in good rows: one after the other, round and round


class StepRows(torch.utils.data.Dataset):
    """`rows_per_step` rows for each step: easy to learn, but random from the row `strange_from` of a `strange` step
    on, and without one label, which makes the loss 0 / 0, where a step is `poisoned`."""

    def __init__(self, steps: int, *, strange=(), poisoned=(), rows_per_step: int = ROWS, strange_from: int = 0):
        self.strange, self.poisoned, self.rows_per_step = set(strange), set(poisoned), rows_per_step
        self.strange_from = strange_from
        self.total = steps * rows_per_step

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        step, place = row // self.rows_per_step + 1, row % self.rows_per_step
        tokens = (row + torch.arange(LENGTH)) % LEARNT
        if step in self.strange and place >= self.strange_from:
            tokens = torch.randint(LEARNT, VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(row))
        labels = torch.full_like(tokens, -100) if step in self.poisoned else tokens
        return {"input_ids": tokens, "labels": labels}


class Snapshots(TrainerCallback):
    """Copies of weights and optimizer state after each of the `steps`."""

    def __init__(self, trainer: PackedRowsTrainer, steps):
        self.trainer, self.steps = trainer, set(steps)
        self.after: dict[int, dict[str, torch.Tensor]] = {}

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in self.steps:
            self.after[state.global_step] = everything(self.trainer)


def everything(trainer: PackedRowsTrainer) -> dict[str, torch.Tensor]:
    """Weights and the optimizer's tensors, copied, and whole where they are sharded."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    found = {name: _copy(weight.detach()) for name, weight in model.named_parameters()}
    for number, state in trainer.optimizer.state_dict()["state"].items():
        found |= {f"{number} {name}": _copy(value) for name, value in state.items()}
    return found


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor().clone() if isinstance(tensor, DTensor) else tensor.clone()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def guarded_trainer(
    folder: Path, rows: torch.utils.data.Dataset, *, layers: int = 1, held_out: StepRows | None = None, **keys
) -> PackedRowsTrainer:
    """A trainer of `PretrainArguments(**keys)` that has not begun."""
    usual = {
        "per_device_train_batch_size": ROWS,
        "learning_rate": 0.05,
        "warmup_steps": 0,
        "decay_ratio": 0.0,
        "guard_window": 32,
        "logging_steps": 1,
        "save_strategy": "no",
        "eval_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    args = PretrainArguments(output_dir=str(folder), **(usual | keys))
    set_seed(args.seed)
    shape = {"hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = GPTConfig(vocab_size=VOCAB, max_position_embeddings=LENGTH, intermediate_size=32, **shape)
    model = GPTForCausalLM(config)
    trainer = PackedRowsTrainer(args=args, model=model, train_dataset=rows, eval_dataset=held_out)
    trainer.remove_callback(PrinterCallback)
    folder.mkdir(parents=True, exist_ok=True)
    record = RunRecord(
        folder,
        tokens_per_step=ROWS * LENGTH,
        flops_per_token=1.0,
        rows_per_epoch=None,
        rows_per_step=ROWS,
        write=args.process_index == 0,
    )
    trainer.record_into(record, args.fill_rates(config.to_dict()))
    return trainer


def faults(folder: Path) -> list[dict]:
    """What metrics.jsonl says of steps that were not healthy."""
    return [fault for record in read_records(folder / "metrics.jsonl") for fault in record.get("faults", [])]
