"""Pretraining: from text to a base model, by HF's Trainer.

    accelerate launch hfgpt/pretrain.py recipes/tiny.yaml
    accelerate launch hfgpt/pretrain.py recipes/d20.yaml --learning_rate 0.01 --max_steps 5000
    hfgpt pretrain recipes/tiny.yaml --data_path books/*.txt --output_dir runs/books/pretrain

Makes the tokenizer and the packed rows if they are missing, goes on from the newest complete checkpoint, and leaves the
model, metrics.jsonl, samples.jsonl, evals.jsonl and loss.png in `runs/<recipe>/pretrain`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, EvalPrediction, GenerationConfig, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hfgpt.arguments import DataArguments
from hfgpt.data.preparation import prepare_data
from hfgpt.data.rows import OrderedRows, collate_rows
from hfgpt.data.stream import StreamedRows
from hfgpt.data.tokenizer import token_byte_lengths
from hfgpt.data.tokenizer_stage import ensure_tokenizer
from hfgpt.errors import UserError, run_command
from hfgpt.evals.bits_per_byte import BitsPerByte, text_loss_and_bytes
from hfgpt.evals.callback import EvalTasksCallback
from hfgpt.model import GPTConfig, GPTForCausalLM
from hfgpt.model.from_recipe import architecture_of
from hfgpt.recipe import Recipe, load_recipe
from hfgpt.report.plots import plot_loss
from hfgpt.training.arguments import PretrainArguments
from hfgpt.training.callbacks import HistogramCallback, ProgressLines, SampleCallback
from hfgpt.training.checkpoints import complete_checkpoints
from hfgpt.training.hardware import dense_peak_flops
from hfgpt.training.plan import Plan, make_plan
from hfgpt.training.record import RunRecord
from hfgpt.training.trainer import PackedRowsTrainer
from hfgpt.workspace import FINAL_METRICS, RECIPE_FILE, workspace

STAGE = "pretrain"


def main(argv: list[str]) -> None:
    recipe = load_recipe(argv, STAGE, PretrainArguments)
    data, folders = recipe.data, workspace(recipe, STAGE)
    args = recipe.section(STAGE, PretrainArguments, seed=data.seed, output_dir=str(folders.stage))
    say = print if args.process_index == 0 else lambda *_: None
    if folders.is_complete and not recipe.run.overwrite:
        say(f"{folders.stage} is complete; --overwrite runs it again.")
        return

    tokenizer = ensure_tokenizer(recipe.tokenizer, data, folders.tokenizer)
    prepared = prepare_data(data, folders.tokenizer, folders.data)
    say(prepared.summary())

    set_seed(args.seed)
    model = load_model(recipe, args, len(tokenizer), data.max_length)
    model.config.bos_token_id, model.config.pad_token_id = tokenizer.bos_token_id, tokenizer.pad_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    # A base model ends a document where the next would begin.
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.bos_token_id, tokenizer.eos_token_id],
        pad_token_id=tokenizer.pad_token_id,
    )

    architecture = model.config.to_dict()
    rates = args.fill_rates(architecture)
    plan = plan_run(recipe, args, architecture, rates, prepared.train_rows)
    args.max_steps, args.gradient_accumulation_steps = plan.max_steps, plan.batch.grad_accum_steps
    say(plan.as_text())

    peak = dense_peak_flops(torch.cuda.get_device_name()) if args.device.type == "cuda" else None
    record = RunRecord(
        folders.stage,
        tokens_per_step=plan.batch.tokens_per_step,
        flops_per_token=plan.flops_per_token,
        rows_per_epoch=prepared.train_rows,
        rows_per_step=plan.batch.rows_per_step,
        peak_flops=peak * args.world_size if peak else None,
        write=args.process_index == 0,
    )
    total_rows = plan.max_steps * plan.batch.rows_per_step
    token_bytes = torch.from_numpy(token_byte_lengths(tokenizer))
    validation = prepared.validation()
    trainer = PackedRowsTrainer(
        args=args,
        record=record,
        rates=rates,
        model=model,
        processing_class=tokenizer,
        train_dataset=train_rows(data, prepared, folders.tokenizer, total_rows),
        eval_dataset=OrderedRows(validation, seed=None, total_rows=len(validation)) if len(validation) else None,
        data_collator=collate_rows(tokenizer.bos_token_id, data.cross_document_attention),
        preprocess_logits_for_metrics=lambda logits, labels: losses_and_bytes(logits, labels, token_bytes),
        compute_metrics=bits_per_byte,
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
        trainer.add_callback(
            EvalTasksCallback(
                tokenizer, args.eval_tasks, folders.stage, record, limit=args.eval_tasks_limit, metadata=world
            )
        )
    if args.log_histograms:
        trainer.add_callback(HistogramCallback())

    if args.process_index == 0:
        folders.stage.mkdir(parents=True, exist_ok=True)
        (folders.stage / FINAL_METRICS).unlink(missing_ok=True)
        (folders.stage / RECIPE_FILE).write_text(recipe.as_text(), encoding="utf-8")
    checkpoint = newest_checkpoint(folders.stage, recipe.run.overwrite, say)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    metrics = trainer.evaluate() if len(validation) else {}

    trainer.save_model()
    if args.process_index == 0:
        final = final_metrics(plan, record, metrics, trainer.state.log_history)
        plot = plot_loss(folders.stage, prepared.bytes_per_token)
        (folders.stage / FINAL_METRICS).write_text(json.dumps(final, indent=1), encoding="utf-8")
        say(f"model in {folders.stage}, plot in {plot}")
    if args.push_to_hub:
        trainer.push_to_hub()


def load_model(recipe: Recipe, args: PretrainArguments, vocab_size: int, max_length: int):
    """A model with random weights of the recipe's shape, or the one that `model_name_or_path` names.

    Raises UserError when that model's vocabulary is not the tokenizer's.
    """
    attention = {"attn_implementation": recipe.model.attn_implementation} if recipe.model.attn_implementation else {}
    if args.model_name_or_path is None:
        config = GPTConfig(**architecture_of(recipe.model, vocab_size, max_length), **attention)
        return GPTForCausalLM(config)
    model = AutoModelForCausalLM.from_pretrained(args.model_name_or_path, dtype=torch.float32, **attention)
    if model.config.vocab_size != vocab_size:
        raise UserError(
            f"{args.model_name_or_path} has a vocabulary of {model.config.vocab_size:,} but the tokenizer has "
            f"{vocab_size:,}: set tokenizer.name_or_path to the model's own tokenizer."
        )
    return model


def plan_run(recipe: Recipe, args: PretrainArguments, architecture: dict, rates: dict, train_rows: int | None) -> Plan:
    """The plan from the stage's arguments; see `hfgpt.training.plan`."""
    return make_plan(
        architecture,
        depth=recipe.model.depth,
        optimizer="muon" if args.uses_muon else args.optim,
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
        rates=rates,
    )


def train_rows(data: DataArguments, prepared, tokenizer_folder: Path, total_rows: int):
    """Rows in the run's order: memory-mapped where they are prepared, packed on the way where they are streamed."""
    if data.streaming:
        return StreamedRows(data, tokenizer_folder, total_rows=total_rows)
    return OrderedRows(prepared.train(), data.seed, total_rows)


def losses_and_bytes(logits: torch.Tensor, labels: torch.Tensor, token_bytes: torch.Tensor) -> torch.Tensor:
    """(batch, 2): each row's text loss in nats and its bytes, so that logits are never gathered or kept."""
    losses, num_bytes = text_loss_and_bytes(logits, labels, token_bytes.to(labels.device))
    return torch.stack((losses.double(), num_bytes.double()), dim=-1)


def bits_per_byte(prediction: EvalPrediction) -> dict[str, float]:
    metric = BitsPerByte()
    losses, num_bytes = np.asarray(prediction.predictions).T
    metric.add_batch(losses=losses.tolist(), num_bytes=num_bytes.astype(np.int64).tolist())
    return metric.compute()


def newest_checkpoint(folder: Path, overwrite: bool, say) -> Path | None:
    """The newest complete checkpoint; incomplete ones are named and passed over."""
    complete, incomplete = complete_checkpoints(folder)
    for broken, missing in incomplete.items():
        say(f"{broken} is incomplete ({', '.join(missing)}) and is not used.")
    if overwrite or not complete:
        return None
    say(f"going on from {complete[-1]}")
    return complete[-1]


def final_metrics(plan: Plan, record: RunRecord, metrics: dict, history: list[dict]) -> dict:
    """What `final_metrics.json` says: the plan, the time it took, and the last losses."""
    losses = [entry["loss"] for entry in history if "loss" in entry]
    return {
        "steps": plan.max_steps,
        "tokens": plan.total_tokens,
        "flops": plan.total_tokens * plan.flops_per_token,
        "seconds": round(record.elapsed(), 3),
        "tokens_per_second": plan.total_tokens / record.elapsed(),
        "parameters": plan.parameters.total,
        "loss": losses[-1] if losses else None,
        "val_loss": metrics.get("eval_loss"),
        "val_bits_per_byte": metrics.get("eval_bits_per_byte"),
    }


if __name__ == "__main__":
    sys.exit(run_command(main))
