"""What all five stages do around their trainer: where they start, the record, the callbacks, resuming, saving."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import HubStrategy

from hfgpt.arguments import DataArguments
from hfgpt.errors import STOPPED, UserError
from hfgpt.evals.callback import EvalTasksCallback, ScoringTimes
from hfgpt.evals.questions import task_metadata
from hfgpt.evals.scores import EVALS_FILE
from hfgpt.hub.stage_pushes import CheckpointPushes, open_stage_repo, push_stage
from hfgpt.recipe import Recipe
from hfgpt.report.summary import stage_summary
from hfgpt.stage_lock import let_go
from hfgpt.training.arguments import StageArguments
from hfgpt.training.callbacks import SAMPLES_FILE, HistogramCallback, PlainLines, ProgressLines
from hfgpt.training.checkpoints import checkpoint_step
from hfgpt.training.environment import ENVIRONMENT_FILE, environment
from hfgpt.training.hardware import dense_peak_flops, prepare_cpu
from hfgpt.training.mixin import RecordedTrainer
from hfgpt.training.preemption import StopRequest, StopWhenTold
from hfgpt.training.record import RunRecord, keep_records
from hfgpt.whole_files import write_whole
from hfgpt.workspace import FINAL_METRICS, PLAN_FILE, Workspace, begins_anew, note_start, stage_before

Say = Callable[[str], None]


def speaker(args: StageArguments) -> Say:
    """`print` in the main process, silence in the others."""
    return print if args.process_index == 0 else lambda *_: None


def is_done(folders: Workspace, recipe: Recipe, say: Say) -> bool:
    """Whether the stage is complete and need not run again; says so."""
    if folders.is_complete and not begins_anew(folders.stage, recipe):
        say(f"{folders.stage} is complete; --overwrite runs it again.")
        return True
    return False


def start_model(recipe: Recipe, stage: str, args: StageArguments) -> str:
    """The model that `stage` starts from: `model_name_or_path`, or the stage before it, which must be complete."""
    if args.model_name_or_path:
        return args.model_name_or_path
    before = stage_before(recipe, stage)
    if before is None:
        raise UserError(f"{recipe.path} has no stage before {stage}: give a trained model by --model_name_or_path.")
    if not (before / FINAL_METRICS).is_file():  # what an earlier run left there may be another model
        what = "is not complete" if (before / "config.json").is_file() else "holds no model"
        command = f"accelerate launch hfgpt/{before.name}.py {recipe.path} --output_root {recipe.run.output_root}"
        raise UserError(
            f"{stage} starts from {before}, which {what}: run {before.name} first ({command}), or give a "
            "model by --model_name_or_path."
        )
    return str(before)


def agree_on_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, is_chat: bool) -> None:
    """Write the tokenizer's special tokens into the model's configs. A chat model stops at `<|end|>`; a base model
    ends a document where the next would begin, at BOS, too. Raises UserError unless BOS, pad and end are three tokens
    and every token has a row in the model."""
    bos, pad, end = tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id
    if None in (bos, pad, end) or len({bos, pad, end}) < 3:
        raise UserError(
            f"the tokenizer's bos {tokenizer.bos_token}, pad {tokenizer.pad_token} and end {tokenizer.eos_token} "
            "must be three different tokens: set tokenizer.add_chat_tokens."
        )
    if len(tokenizer) > model.config.vocab_size:
        raise UserError(f"the tokenizer has {len(tokenizer):,} tokens, the model {model.config.vocab_size:,}.")
    model.config.bos_token_id, model.config.pad_token_id, model.config.eos_token_id = bos, pad, end
    model.generation_config = GenerationConfig(
        bos_token_id=bos, eos_token_id=end if is_chat else [bos, end], pad_token_id=pad
    )


def write_plan(
    args: StageArguments, folders: Workspace, *, by: str, steps: int, tokens_per_step: float, flops_per_token: float
) -> None:
    """Leave plan.json, the length that the stage sets out for and the key `by` which it was decided, and
    environment.json. Tokens and FLOPs are null where nobody can know `tokens_per_step`, given as 0, before."""
    tokens = round(steps * tokens_per_step) or None
    plan = {"by": by, "steps": steps, "tokens": tokens, "flops": tokens and tokens * flops_per_token}
    for name, content in ((PLAN_FILE, plan), (ENVIRONMENT_FILE, environment(args.world_size))):
        write_whole(folders.stage / name, json.dumps(content, indent=1))


def note_when_accepted(
    trainer: RecordedTrainer,
    recipe: Recipe,
    args: StageArguments,
    folders: Workspace,
    identity: dict[str, Any],
    **plan: Any,
) -> None:
    """Once the trainer has accepted its checkpoint or its start, note the run's `identity` and write its `plan`
    (`write_plan`)."""
    trainer.on_accepted += [
        partial(note_start, folders.stage, recipe, identity),
        partial(write_plan, args, folders, **plan),
    ]


def make_record(
    args: StageArguments,
    folders: Workspace,
    say: Say,
    *,
    tokens_per_step: float,
    flops_per_token: float,
    rows_per_epoch: float | None,
    rows_per_step: int,
) -> RunRecord:
    """The stage's metrics.jsonl, with MFU where the GPU's peak is known. Takes all cores where there is no GPU."""
    on_gpu = args.device.type == "cuda"
    if not on_gpu:
        prepare_cpu()
    peak = dense_peak_flops(torch.cuda.get_device_name()) if on_gpu and args.bf16 else None
    if peak:
        say(f"MFU         of {peak:.3g} dense bfloat16 FLOP/s on each of {args.world_size} GPU(s)")
    return RunRecord(
        folders.stage,
        tokens_per_step=tokens_per_step,
        flops_per_token=flops_per_token,
        rows_per_epoch=rows_per_epoch,
        rows_per_step=rows_per_step,
        peak_flops=peak * args.world_size if peak else None,
        write=args.process_index == 0,
        synchronize=torch.cuda.synchronize if on_gpu else lambda: None,
    )


def add_callbacks(
    trainer: RecordedTrainer,
    args: StageArguments,
    tokenizer: PreTrainedTokenizerBase,
    folders: Workspace,
    data: DataArguments,
    samples: TrainerCallback,
) -> None:
    """Progress in readable lines, samples, lm-eval tasks, histograms."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(PlainLines() if args.disable_tqdm else ProgressLines())
    trainer.add_callback(samples)
    if args.eval_tasks:
        trainer.add_callback(
            EvalTasksCallback(
                tokenizer,
                args.eval_tasks,
                folders.stage,
                trainer.record,
                scoring_times(args),
                limit=args.eval_tasks_limit,
                batch_size=args.eval_tasks_batch_size,
                metadata=task_metadata(data, vars(args)),
            )
        )
    if args.pushes_to_hub and args.hub_strategy == HubStrategy.EVERY_SAVE:
        pushes = CheckpointPushes(args, folders.stage)
        trainer.on_complete = pushes.push
        trainer.add_callback(pushes)
    if args.log_histograms:
        trainer.add_callback(HistogramCallback())


def scoring_times(args: StageArguments) -> ScoringTimes:
    """When the stage's abilities are measured."""
    return ScoringTimes(args.eval_tasks_steps, args.eval_tasks_tokens)


def conclude(args: StageArguments, folders: Workspace, say: Say) -> None:
    """Say how the finished stage went, and push it where it is to be pushed."""
    say(stage_summary(folders.stage))
    if args.pushes_to_hub:
        say(push_stage(args, folders.stage))


def train(
    recipe: Recipe,
    trainer: RecordedTrainer,
    args: StageArguments,
    folders: Workspace,
    say: Say,
    finish: Callable[[], None],
) -> None:
    """Train from the newest complete checkpoint or from the start, evaluate the last step, save the model, and
    `finish` the stage.

    A run that is told to end (training/preemption.py) saves, and ends the process with exit code 75. Where it was told
    so when nothing was left to train, it finishes the stage before it does.
    """
    trainer.accelerator.wait_for_everyone()  # until the main process has removed what --overwrite removes
    checkpoint = trainer.checkpoint_to_resume(say)
    is_main = args.process_index == 0
    if is_main:
        if args.pushes_to_hub:
            open_stage_repo(args, folders.stage, is_resumed=checkpoint is not None)
        for name in (SAMPLES_FILE, EVALS_FILE):  # metrics.jsonl is the record's own
            last = checkpoint_step(checkpoint) if checkpoint else -1
            trainer.on_accepted.append(partial(keep_records, folders.stage / name, last))
    request = StopRequest(speaks=is_main)
    stop = StopWhenTold(request)
    trainer.add_callback(stop)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        last = trainer.state.global_step
        if stop.has_stopped:
            # One process writes the checkpoint, and a launcher ends its processes when the first of them has ended.
            trainer.accelerator.wait_for_everyone()
        else:
            evaluated = any("eval_loss" in log and log["step"] == last for log in trainer.state.log_history)
            if trainer.eval_dataset is not None and not evaluated:
                trainer.evaluate()
            trainer.save_model()
            was_told = stop.is_agreed_now(args)
            finish()
    finally:
        request.close()
        let_go()
    if stop.has_stopped:
        if is_main:
            words = where_it_stopped(trainer.newest, request.cause, last, recipe.run.overwrite)
            print(f"hfgpt: {words}", file=sys.stderr, flush=True)
        raise SystemExit(STOPPED)
    if is_main and (was_told or request.is_made):  # the others may end as usual: nobody starts anything after them
        words = f"{folders.stage} is complete; stopped by {request.cause} before anything else begins."
        print(f"hfgpt: {words}", file=sys.stderr, flush=True)
        raise SystemExit(STOPPED)


def where_it_stopped(newest: Path | None, cause: str, step: int, overwrites: bool) -> str:
    """What a run that was told to end leaves behind, its `newest` checkpoint, and what to do."""
    if newest is None:
        return f"stopped after step {step} by {cause}, and nothing could be saved: the same command starts anew."
    lost = "" if checkpoint_step(newest) == step else f", {step - checkpoint_step(newest)} steps back"
    command = "the same command without --overwrite" if overwrites else "the same command"
    return f"stopped after step {step} by {cause}: {command} goes on from {newest}{lost}."
