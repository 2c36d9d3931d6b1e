"""What SFT, DPO and GRPO share: the start model with its tokenizer, the plan in words, samples of answers, the end."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hfgpt.data.order import RunOrder
from hfgpt.data.tokenizer import load_tokenizer
from hfgpt.evals.tasks import check_tasks
from hfgpt.model import GPTForCausalLM
from hfgpt.model.architecture import architecture_keys
from hfgpt.model.loading import load_model
from hfgpt.recipe import Recipe
from hfgpt.report.summary import finish_stage
from hfgpt.run_identity import SETTINGS, START_IS_ON_HUB, deciding_settings, is_on_hub, start_weights
from hfgpt.stage import (
    Say,
    add_callbacks,
    agree_on_tokens,
    conclude,
    make_record,
    note_when_accepted,
    speaker,
    start_model,
    train,
)
from hfgpt.training.budget import count_parameters, flops_per_token
from hfgpt.training.callbacks import SampleCallback
from hfgpt.training.chat_arguments import ChatSourceArguments
from hfgpt.training.checkpoints import sync_files
from hfgpt.training.mixin import RecordedTrainer
from hfgpt.training.speed import use_cpu_well
from hfgpt.workspace import Workspace, prepare_start


class WithoutCard:
    """Named before TRL's trainers: at every checkpoint they would write README.md over that of a person."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the card is the report's to write, once the stage is complete."""


class RunOrderTrainer(RecordedTrainer):
    """Takes rows in the order of a whole run (data/order.py), unless `train_sampling_strategy` says otherwise."""

    def _get_train_sampler(self, train_dataset=None):
        if self.args.train_sampling_strategy != "random":
            return super()._get_train_sampler(train_dataset)
        return RunOrder(len(self.train_dataset), self.args.max_steps * rows_per_step(self.args), self.args.seed)


def load_start(
    recipe: Recipe, stage: str, args: ChatSourceArguments
) -> tuple[GPTForCausalLM, PreTrainedTokenizerFast]:
    """The model that the stage starts from and its tokenizer, which gets the chat tokens if it lacks them."""
    start = start_model(recipe, stage, args)
    tokenizer = load_tokenizer(start, recipe.tokenizer.add_chat_tokens, tell=speaker(args))
    model = load_model(start, tokenizer, recipe.data.max_length, recipe.model.attn_implementation)
    agree_on_tokens(model, tokenizer, is_chat=True)
    use_cpu_well(model, args)
    return model, tokenizer


@contextmanager
def refusals_of(recipe: Recipe, stage: str) -> Iterator[None]:
    """What TRL's trainer refuses when it is made is the user's to mend."""
    try:
        yield
    except (ValueError, ImportError) as error:
        raise recipe.refusal(stage, error) from error


def rows_per_step(args: ChatSourceArguments) -> int:
    return args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps


def steps_of(args: ChatSourceArguments, num_rows: int) -> int:
    """Optimizer steps of the stage: `max_steps`, or as many as `num_train_epochs` passes take."""
    if args.max_steps > 0:
        return args.max_steps
    return math.ceil(math.ceil(num_rows / rows_per_step(args)) * args.num_train_epochs)


def plan_in_words(
    args: ChatSourceArguments, model: PreTrainedModel, num_rows: int, tokens_per_row: float, rates: dict[str, float]
) -> str:
    """Size, batch, length and rates of the stage, before its first step."""
    steps = steps_of(args, num_rows)
    count = rows_per_step(args)
    shown = ", ".join(f"{name.removesuffix('_rate').replace('_', ' ')} {r:.3g}" for name, r in rates.items())
    tokens = f", about {steps * count * tokens_per_row:,.0f} tokens" if tokens_per_row else ""
    return "\n".join(
        (
            f"model       {model.num_parameters():,} parameters",
            f"batch       {args.per_device_train_batch_size} rows x {args.world_size} process(es) x "
            f"{args.gradient_accumulation_steps} accumulation = {count} rows a step",
            f"length      {steps:,} steps, {steps * count / num_rows:.2f} epochs of {num_rows:,} rows{tokens}",
            f"optimizer   {args.optimizer_name}: {shown}",
        )
    )


def begin(
    recipe: Recipe,
    args: ChatSourceArguments,
    folders: Workspace,
    trainer: RecordedTrainer,
    say: Say,
    *,
    tokenizer: PreTrainedTokenizerFast,
    rates: dict[str, float],
    num_rows: int,
    tokens_per_row: float,
    identity: dict[str, Any],
) -> None:
    """Make sure that the stage may start in its folder, and give the trainer its record, samples and evaluations."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if args.use_peft:
        model.create_or_update_model_card = lambda folder: None  # PEFT's own, for the same reason as TRL's
    by, steps = "max_steps" if args.max_steps > 0 else "num_train_epochs", steps_of(args, num_rows)
    if isinstance(trainer, RunOrderTrainer):
        args.max_steps = steps  # its order has every epoch in it
    tokens_per_step = tokens_per_row * rows_per_step(args)
    flops = flops_per_token(model.config.to_dict(), recipe.data.max_length)
    if args.process_index == 0:
        check_tasks(args.eval_tasks)
        identity = identity | {
            "start": args.model_name_or_path or "the stage before",
            START_IS_ON_HUB: is_on_hub(args.model_name_or_path),
            **start_weights(model),
            "rows_per_step": rows_per_step(args),
            "seed": args.seed,
            "optimizer": args.optimizer_name,
            "architecture": architecture_keys(model.config),
            SETTINGS: deciding_settings(args) | {"max_length": recipe.data.max_length},
            **rates,
        }
        prepare_start(folders.stage, recipe, identity, args.resume_from_checkpoint)
        plan = {"by": by, "steps": steps, "tokens_per_step": tokens_per_step, "flops_per_token": flops}
        note_when_accepted(trainer, recipe, args, folders, identity, **plan)
    record = make_record(
        args,
        folders,
        say,
        tokens_per_step=tokens_per_step,
        flops_per_token=flops,
        rows_per_epoch=num_rows,
        rows_per_step=rows_per_step(args),
    )
    trainer.record_into(record, rates)
    samples = SampleCallback(
        tokenizer,
        args.sample_prompts,
        folders.stage,
        record,
        every=args.sample_steps or sys.maxsize,  # before and after in any case
        max_new_tokens=args.sample_max_new_tokens,
        as_chat=True,
    )
    add_callbacks(trainer, args, tokenizer, folders, recipe.data, samples)


def run_to_the_end(
    recipe: Recipe, args: ChatSourceArguments, folders: Workspace, trainer: RecordedTrainer, say: Say
) -> None:
    """Train, save a whole model (adapters merged into it), and finish the stage."""

    def finish() -> None:
        if args.use_peft:
            save_merged(trainer, folders.stage)
        if args.process_index == 0:
            parameters = count_parameters(trainer.accelerator.unwrap_model(trainer.model).config.to_dict()).total
            finish_stage(folders.stage, trainer.record, steps=trainer.state.global_step, parameters=parameters)
            conclude(args, folders, say)

    train(recipe, trainer, args, folders, say, finish)


def save_merged(trainer: RecordedTrainer, folder: Path) -> None:
    """Replace the adapters in `folder` by the model with the adapters merged in."""
    if trainer.args.should_save:
        merged = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
        merged.save_pretrained(folder)
        for left in ("adapter_model.safetensors", "adapter_config.json"):
            (folder / left).unlink(missing_ok=True)
        sync_files(folder)
