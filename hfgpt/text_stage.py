"""What pretraining and midtraining share: packed rows in a fixed order through HF's Trainer."""

from collections.abc import Callable, Mapping
from typing import Any

from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast
from transformers.trainer_utils import IntervalStrategy

from hfgpt.data.rows import OrderedRows, collate_rows
from hfgpt.data.tokenizer import token_byte_lengths
from hfgpt.evals.held_out import HeldOutBitsPerByte
from hfgpt.evals.tasks import check_tasks
from hfgpt.model import GPTForCausalLM
from hfgpt.model.architecture import architecture_keys
from hfgpt.model.modeling_gpt import takes_sequence_lengths
from hfgpt.recipe import Recipe
from hfgpt.report.summary import finish_stage
from hfgpt.run_identity import (
    SETTINGS,
    START_IS_ON_HUB,
    deciding_settings,
    is_on_hub,
    learning_rate_of,
    start_weights,
)
from hfgpt.stage import Say, add_callbacks, conclude, make_record, note_when_accepted, train
from hfgpt.training.arguments import PretrainArguments
from hfgpt.training.callbacks import SampleCallback
from hfgpt.training.plan import Plan, make_plan
from hfgpt.training.speed import speed_up
from hfgpt.training.trainer import PackedRowsTrainer
from hfgpt.workspace import Workspace, begun_run, prepare_start


def plan_of(
    recipe: Recipe,
    args: PretrainArguments,
    model: GPTForCausalLM,
    train_rows: int | None,
    earlier_rates: Mapping[str, float] | None,
) -> Plan:
    """Batch, length and rates of the stage, written into `args` too; `train_rows` is one epoch, `earlier_rates` those
    of the stage before, null for a new model."""
    plan = make_plan(
        model.config.to_dict(),
        depth=None if args.model_name_or_path else recipe.model.depth,
        optimizer=args.optimizer_name,
        max_length=recipe.data.max_length,
        per_device_batch_size=args.per_device_train_batch_size,
        num_processes=args.world_size,
        grad_accum_steps=args.gradient_accumulation_steps,
        total_batch_size=args.total_batch_size,
        max_steps=args.max_steps,
        target_flops=args.target_flops,
        target_param_data_ratio=args.target_param_data_ratio,
        num_train_epochs=args.epochs_wanted,
        train_rows=train_rows,
        rates=args.given_rates(),
        rate_scale=args.rate_scale,
        earlier_rates=earlier_rates,
        galore=args.galore,
    )
    for name, rate in plan.rates.items():
        setattr(args, name, rate)
    args.max_steps, args.gradient_accumulation_steps = plan.max_steps, plan.batch.grad_accum_steps
    args.per_device_train_batch_size = plan.batch.per_device_batch_size
    return plan


def keep_begun_rate(recipe: Recipe, args: PretrainArguments, folders: Workspace) -> None:
    """Let a run that goes on keep the rate of Muon that it began with: it follows from the length, which may be
    another now."""
    begun = begun_run(folders.stage, recipe, args.resume_from_checkpoint)
    if begun and args.uses_muon and args.learning_rate is None:
        args.learning_rate = learning_rate_of(begun)


def train_on_rows(
    recipe: Recipe,
    args: PretrainArguments,
    folders: Workspace,
    say: Say,
    *,
    model: GPTForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    plan: Plan,
    rows_of: Callable[[int], TorchDataset | IterableDataset],
    validation: Dataset,
    bytes_per_token: float,
    identity: dict[str, Any],
    bigram_weight_decay: float = 0.0,
) -> None:
    """Train `model` as planned on `rows_of(total rows)`, with everything that belongs to a stage, and finish it.

    `identity` says which rows these are; with what else decides a step it must stay the same for a run to go on.
    `bigram_weight_decay` holds where the stage's own key is null; it follows from the length, which may change.
    """
    data = recipe.data
    if not len(validation):
        args.eval_strategy = IntervalStrategy.NO
    held_out = HeldOutBitsPerByte(token_byte_lengths(tokenizer))
    record = make_record(
        args,
        folders,
        say,
        tokens_per_step=plan.batch.tokens_per_step,
        flops_per_token=plan.flops_per_token,
        rows_per_epoch=plan.train_rows,
        rows_per_step=plan.batch.rows_per_step,
    )
    say(speed_up(model, args, recipe.model.attn_implementation))
    train_rows = rows_of(plan.max_steps * plan.batch.rows_per_step)
    identity = identity | {
        START_IS_ON_HUB: is_on_hub(args.model_name_or_path),
        "tokens_per_step": plan.batch.tokens_per_step,
        "seed": data.seed,
        "optimizer": plan.optimizer,
        "weight_decay": args.weight_decay,
        "architecture": architecture_keys(model.config),
        SETTINGS: deciding_settings(args) | {"cross_document_attention": data.cross_document_attention},
        **plan.rates,
    }
    if args.process_index == 0:
        check_tasks(args.eval_tasks)
        identity |= start_weights(model)
        prepare_start(folders.stage, recipe, identity, args.resume_from_checkpoint)
    # A stream is read in one process and dealt out row by row, which a batch's sequence lengths would not survive.
    with_lengths = takes_sequence_lengths(model.config) and not isinstance(train_rows, IterableDataset)
    trainer = PackedRowsTrainer(
        args=args,
        model=model,
        processing_class=tokenizer,
        train_dataset=train_rows,
        eval_dataset=OrderedRows(validation, seed=None, total_rows=len(validation)) if len(validation) else None,
        data_collator=collate_rows(tokenizer.bos_token_id, data.cross_document_attention, with_lengths),
        preprocess_logits_for_metrics=held_out.reduce,
        compute_metrics=held_out.compute,
    )
    trainer.record_into(record, dict(plan.rates), bigram_weight_decay)
    samples = SampleCallback(
        tokenizer,
        args.sample_prompts,
        folders.stage,
        record,
        every=args.sample_steps,
        max_new_tokens=args.sample_max_new_tokens,
    )
    add_callbacks(trainer, args, tokenizer, folders, data, samples)
    if args.process_index == 0:
        note_when_accepted(
            trainer,
            recipe,
            args,
            folders,
            identity,
            by=plan.length.by,
            steps=plan.max_steps,
            tokens_per_step=plan.batch.tokens_per_step,
            flops_per_token=plan.flops_per_token,
        )

    def finish() -> None:
        if args.process_index == 0:
            finish_stage(
                folders.stage,
                record,
                steps=plan.max_steps,
                parameters=plan.parameters.total,
                bytes_per_token=bytes_per_token,
            )
            conclude(args, folders, say)

    train(recipe, trainer, args, folders, say, finish)
