"""Pretraining: from text to a base model, by HF's Trainer.

    accelerate launch hfgpt/pretrain.py recipes/tiny.yaml
    accelerate launch hfgpt/pretrain.py recipes/d20.yaml --learning_rate 0.01 --max_steps 5000
    hfgpt pretrain recipes/tiny.yaml --data_path books/*.txt --output_dir runs/books/pretrain

Makes the tokenizer and the packed rows if they are missing, goes on from the newest complete checkpoint, and leaves
the model, metrics.jsonl, samples.jsonl, evals.jsonl and loss.png in `runs/<recipe>/pretrain`.
"""

import sys

import torch
from transformers import GenerationConfig, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import IntervalStrategy

from hfgpt.data.preparation import prepare_data
from hfgpt.data.rows import OrderedRows, collate_rows
from hfgpt.data.stream import StreamedRows
from hfgpt.data.tokenizer import token_byte_lengths
from hfgpt.data.tokenizer_stage import ensure_tokenizer
from hfgpt.errors import UserError, run_command
from hfgpt.evals.callback import EvalTasksCallback
from hfgpt.evals.held_out import HeldOutBitsPerByte
from hfgpt.model import GPTConfig, GPTForCausalLM
from hfgpt.model.architecture import architecture_keys
from hfgpt.model.from_recipe import architecture_of
from hfgpt.model.loading import load_model
from hfgpt.recipe import Recipe, load_recipe
from hfgpt.report.summary import finish_stage, stage_summary
from hfgpt.training.arguments import PretrainArguments
from hfgpt.training.callbacks import HistogramCallback, PlainLines, ProgressLines, SampleCallback
from hfgpt.training.checkpoints import checkpoint_to_resume, named_checkpoint
from hfgpt.training.hardware import dense_peak_flops, use_all_cores
from hfgpt.training.plan import make_plan
from hfgpt.training.record import RunRecord
from hfgpt.training.trainer import PackedRowsTrainer
from hfgpt.workspace import start_stage, workspace

STAGE = "pretrain"


def main(argv: list[str]) -> None:
    recipe = load_recipe(argv, STAGE, PretrainArguments)
    data, folders = recipe.data, workspace(recipe, STAGE)
    args = recipe.section(STAGE, PretrainArguments, seed=data.seed, output_dir=str(folders.stage))
    is_main = args.process_index == 0
    say = print if is_main else lambda *_: None
    if folders.is_complete and not recipe.run.overwrite:
        say(f"{folders.stage} is complete; --overwrite runs it again.")
        return

    if data.streaming and args.dataloader_num_workers > 1:
        raise UserError("data.streaming reads in one place: set pretrain.dataloader_num_workers to 0 or 1.")
    tokenizer = ensure_tokenizer(recipe.tokenizer, data, folders.tokenizer)
    prepared = prepare_data(data, folders.tokenizer, folders.data)
    say(prepared.summary())

    set_seed(args.seed)
    model: GPTForCausalLM
    if args.model_name_or_path:
        model = load_model(args.model_name_or_path, tokenizer, data.max_length, recipe.model.attn_implementation)
    else:
        model = new_model(recipe, len(tokenizer))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.config, name, getattr(tokenizer, name))
    # A base model ends a document where the next would begin.
    stop = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=stop, pad_token_id=tokenizer.pad_token_id
    )

    architecture = model.config.to_dict()
    rates = args.fill_rates(architecture)
    plan = make_plan(
        architecture,
        depth=None if args.model_name_or_path else recipe.model.depth,
        optimizer=args.optimizer_name,
        max_length=data.max_length,
        per_device_batch_size=args.per_device_train_batch_size,
        num_processes=args.world_size,
        grad_accum_steps=args.gradient_accumulation_steps,
        total_batch_size=args.total_batch_size,
        max_steps=args.max_steps,
        target_flops=args.target_flops,
        target_param_data_ratio=args.target_param_data_ratio,
        num_train_epochs=args.epochs_wanted,
        train_rows=prepared.train_rows,
        rates=rates,
    )
    args.max_steps, args.gradient_accumulation_steps = plan.max_steps, plan.batch.grad_accum_steps
    say(plan.as_text())

    total_rows = plan.max_steps * plan.batch.rows_per_step
    if data.streaming:
        train_rows: OrderedRows | StreamedRows = StreamedRows(data, folders.tokenizer, total_rows=total_rows)
    else:
        train_rows = OrderedRows(prepared.train(), data.seed, total_rows)
    validation = prepared.validation()
    if not len(validation):
        args.eval_strategy = IntervalStrategy.NO
    held_out = HeldOutBitsPerByte(token_byte_lengths(tokenizer))

    on_gpu = args.device.type == "cuda"
    if not on_gpu:
        use_all_cores()
    peak = dense_peak_flops(torch.cuda.get_device_name()) if on_gpu and args.bf16 else None
    if peak:
        say(f"MFU         of {peak:.3g} dense bfloat16 FLOP/s on each of {args.world_size} GPU(s)")
    record = RunRecord(
        folders.stage,
        tokens_per_step=plan.batch.tokens_per_step,
        flops_per_token=plan.flops_per_token,
        rows_per_epoch=prepared.train_rows,
        rows_per_step=plan.batch.rows_per_step,
        peak_flops=peak * args.world_size if peak else None,
        write=is_main,
        synchronize=torch.cuda.synchronize if on_gpu else lambda: None,
    )
    if is_main:
        identity = {
            "rows": prepared.path.name,
            "tokens_per_step": plan.batch.tokens_per_step,
            "seed": data.seed,
            "shuffle_window": data.shuffle_window if data.streaming else None,
            "optimizer": plan.optimizer,
            "weight_decay": args.weight_decay,
            "architecture": architecture_keys(model.config),
            **rates,
        }
        start_stage(folders.stage, recipe, identity)
    trainer = PackedRowsTrainer(
        args=args,
        record=record,
        rates=rates,
        model=model,
        processing_class=tokenizer,
        train_dataset=train_rows,
        eval_dataset=OrderedRows(validation, seed=None, total_rows=len(validation)) if len(validation) else None,
        data_collator=collate_rows(tokenizer.bos_token_id, data.cross_document_attention),
        preprocess_logits_for_metrics=held_out.reduce,
        compute_metrics=held_out.compute,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(PlainLines() if args.disable_tqdm else ProgressLines())
    trainer.add_callback(
        SampleCallback(
            tokenizer,
            args.sample_prompts,
            folders.stage,
            record,
            every=args.sample_steps,
            max_new_tokens=args.sample_max_new_tokens,
        )
    )
    if args.eval_tasks:
        world = {"tinyworld_people": data.tinyworld_people, "seed": data.seed}
        limit = args.eval_tasks_limit
        trainer.add_callback(
            EvalTasksCallback(tokenizer, args.eval_tasks, folders.stage, record, limit=limit, metadata=world)
        )
    if args.log_histograms:
        trainer.add_callback(HistogramCallback())

    trainer.accelerator.wait_for_everyone()  # until the main process has removed what --overwrite removes
    checkpoint = named_checkpoint(args.resume_from_checkpoint) or checkpoint_to_resume(folders.stage, say)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    evaluated = any("eval_loss" in log and log["step"] == plan.max_steps for log in trainer.state.log_history)
    if len(validation) and not evaluated:
        trainer.evaluate()

    trainer.save_model()
    if is_main:
        finish_stage(folders.stage, plan, record, prepared.bytes_per_token)
        say(stage_summary(folders.stage))
    if args.push_to_hub:
        trainer.push_to_hub()


def new_model(recipe: Recipe, vocab_size: int) -> GPTForCausalLM:
    """A model of the recipe's shape with random weights."""
    config = GPTConfig(**architecture_of(recipe.model, vocab_size, recipe.data.max_length))
    config._attn_implementation = recipe.model.attn_implementation  # null leaves the choice to transformers
    try:
        return GPTForCausalLM(config)
    except (ValueError, ImportError) as error:
        raise UserError(f"{recipe.place('model', 'attn_implementation')}: {' '.join(str(error).split())}") from None


if __name__ == "__main__":
    sys.exit(run_command(main))
