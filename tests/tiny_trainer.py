"""A trainer with hfgpt's checkpoints over a model that takes a step in milliseconds."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import IntervalStrategy

from hfgpt.model import GPTConfig, GPTForCausalLM
from hfgpt.training.arguments import StageArguments
from hfgpt.training.exact_resume import ExactResume
from hfgpt.training.saving import CompleteCheckpoints


class TinyTrainer(ExactResume, CompleteCheckpoints):
    """What of RecordedTrainer has to do with checkpoints."""


def tiny_trainer(
    folder: Path,
    *callbacks: TrainerCallback,
    tied: bool = False,
    kind: type[TinyTrainer] = TinyTrainer,
    **arguments: Any,
) -> TinyTrainer:
    """Trains on 32 rows of 16 tokens: 6 steps, a checkpoint every second; `arguments` are those of StageArguments."""
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
        tie_word_embeddings=tied,
    )
    usual = {
        "max_steps": 6,
        "save_steps": 2,
        "eval_strategy": "no",
        "optim": "adamw_torch",
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": 4,
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    rows = torch.randint(64, (32, 16), generator=torch.Generator().manual_seed(1))
    data = [{"input_ids": row, "labels": row} for row in rows]
    args = StageArguments(output_dir=str(folder), **{**usual, **arguments})
    trainer = kind(
        model=GPTForCausalLM(config),
        args=args,
        train_dataset=data,
        eval_dataset=data if args.eval_strategy != IntervalStrategy.NO else None,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
