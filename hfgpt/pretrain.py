"""Pretraining: from text to a base model, by HF's Trainer.

    accelerate launch hfgpt/pretrain.py recipes/tiny.yaml
    accelerate launch hfgpt/pretrain.py recipes/d20.yaml --learning_rate 0.01 --max_steps 5000
    hfgpt pretrain recipes/tiny.yaml --data_path books/*.txt --output_dir runs/books/pretrain

Makes the tokenizer and the packed rows if they are missing, goes on from the newest complete checkpoint, and leaves
the model, metrics.jsonl, samples.jsonl, evals.jsonl and loss.png in `runs/<recipe>/pretrain`.
"""

import sys

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hfgpt.data.preparation import prepare_data
from hfgpt.data.rows import OrderedRows, collate_rows
from hfgpt.data.stream import StreamedRows
from hfgpt.data.tokenizer import token_byte_lengths
from hfgpt.data.tokenizer_stage import ensure_tokenizer
from hfgpt.errors import UserError, run_command
from hfgpt.evals.callback import EvalTasksCallback
from hfgpt.evals.held_out import HeldOutBitsPerByte
from hfgpt.model import GPTConfig, GPTForCausalLM
from hfgpt.model.from_recipe import architecture_of
from hfgpt.recipe import Recipe, load_recipe
from hfgpt.report.summary import finish_stage, stage_summary
from hfgpt.training.arguments import PretrainArguments
from hfgpt.training.callbacks import HistogramCallback, ProgressLines, SampleCallback
from hfgpt.training.checkpoints import checkpoint_to_resume
from hfgpt.training.hardware import dense_peak_flops
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

    tokenizer = ensure_tokenizer(recipe.tokenizer, data, folders.tokenizer)
    prepared = prepare_data(data, folders.tokenizer, folders.data)
    say(prepared.summary())

    set_seed(args.seed)
    model = load_model(recipe, args.model_name_or_path, len(tokenizer))
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
        depth=recipe.model.depth,
        optimizer="muon" if args.uses_muon else args.optim,
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
    held_out = HeldOutBitsPerByte(token_byte_lengths(tokenizer))

    peak = dense_peak_flops(torch.cuda.get_device_name()) if args.device.type == "cuda" else None
    record = RunRecord(
        folders.stage,
        tokens_per_step=plan.batch.tokens_per_step,
        flops_per_token=plan.flops_per_token,
        rows_per_epoch=prepared.train_rows,
        rows_per_step=plan.batch.rows_per_step,
        peak_flops=peak * args.world_size if peak else None,
        write=is_main,
    )
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
    trainer.add_callback(ProgressLines())
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

    if is_main:
        start_stage(folders.stage, recipe)
    checkpoint = None if recipe.run.overwrite else checkpoint_to_resume(folders.stage, say)
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


def load_model(recipe: Recipe, model_name_or_path: str | None, vocab_size: int) -> PreTrainedModel:
    """A model with random weights of the recipe's shape, or the one that is named, its vocabulary the tokenizer's.

    Raises UserError when that model's vocabulary is another one.
    """
    attention = recipe.model.attn_implementation  # null leaves the choice to transformers
    if model_name_or_path is None:
        config = GPTConfig(**architecture_of(recipe.model, vocab_size, recipe.data.max_length))
        config._attn_implementation = attention
        return GPTForCausalLM(config)
    model = AutoModelForCausalLM.from_pretrained(
        model_name_or_path, dtype=torch.float32, attn_implementation=attention
    )
    if model.config.vocab_size != vocab_size:
        raise UserError(
            f"{model_name_or_path} has a vocabulary of {model.config.vocab_size:,} but the tokenizer has "
            f"{vocab_size:,}: set tokenizer.name_or_path to the model's own tokenizer."
        )
    return model


if __name__ == "__main__":
    sys.exit(run_command(main))
