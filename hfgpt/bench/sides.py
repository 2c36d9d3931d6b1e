"""The sides of a benchmark: our stage, a bare loop over the same model, and plain Trainer with GPT-2. Each trains turn
by turn, then decodes."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.training_args import OptimizerNames

from hfgpt.bench.turns import Turns
from hfgpt.bench.workload import MAX_STEPS, QUIET, Workload, make_workload
from hfgpt.chat.engine import Engine
from hfgpt.chat.sampling import Sampling
from hfgpt.data.rows import RowCollator, collate_rows
from hfgpt.errors import UserError
from hfgpt.model import GPTConfig, GPTForCausalLM
from hfgpt.model.modeling_gpt import takes_sequence_lengths
from hfgpt.recipe import Recipe
from hfgpt.training.hardware import peak_memory_bytes
from hfgpt.training.optimizer import MuonAdamWFactory
from hfgpt.training.record import RunRecord
from hfgpt.training.schedules import warmup_stable_decay
from hfgpt.training.speed import speed_up
from hfgpt.training.trainer import PackedRowsTrainer

PROMPT_TOKENS = 32
Decode = Callable[[list[list[int]], int], object]  # prompts, new tokens for each


@dataclass(frozen=True)
class Trained:
    """A side that has had its turns. `about` is what a reader of its figures should know."""

    flops_per_token: float
    about: dict[str, Any]
    decode: Decode | None  # None where this side cannot decode here


def serve_side(connection: Connection, name: str, recipe: Recipe, nanochat: str | None, decode_tokens: int) -> None:
    """The main function of a side's process: turns of training, then rounds of decoding, until told to end."""
    try:
        workload = make_workload(recipe)
        turns = Turns(connection, workload.device)
        torch.manual_seed(workload.args.seed)
        if name == "nanochat":
            from hfgpt.bench.nanochat import train_nanochat

            trained = train_nanochat(workload, turns, Path(nanochat or ""))
        else:
            trained = {"hfgpt": train_stage, "loop": train_loop, "trainer": train_gpt2}[name](workload, turns)
        peak = peak_memory_bytes(workload.device)
        connection.send({"peak_memory_bytes": peak, "flops_per_token": trained.flops_per_token, **trained.about})
        _serve_decoding(connection, workload, trained.decode, decode_tokens)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass  # the conductor has ended
    except UserError as error:
        connection.send(error)
    except Exception as error:  # of torch, of a model, of memory: the conductor says which side it was
        connection.send(UserError(f"the side {name} failed: {type(error).__name__}: {' '.join(str(error).split())}"))
        raise


def _serve_decoding(connection: Connection, workload: Workload, decode: Decode | None, new_tokens: int) -> None:
    """Answer each order ("decode", rows) with tokens a second, None where this side cannot decode."""
    room = workload.plan.batch.max_length - PROMPT_TOKENS
    new_tokens = min(new_tokens, room)
    prompts = torch.randint(1, workload.architecture["vocab_size"], (64, PROMPT_TOKENS)).tolist()
    while True:
        kind, rows = connection.recv()
        if kind != "decode":
            return
        if decode is None or new_tokens < 1:
            connection.send(None)
            continue
        start = time.perf_counter()
        decode([prompts[row % len(prompts)] for row in range(rows)], new_tokens)
        connection.send(rows * new_tokens / (time.perf_counter() - start))


class _TakeTurns(TrainerCallback):
    def __init__(self, turns: Turns):
        self.turns = turns

    def on_train_begin(self, args, state, control, **kwargs):
        control.should_training_stop = not self.turns.start()

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = not self.turns.step_done()


def train_stage(workload: Workload, turns: Turns) -> Trained:
    """Our own pretraining: model, optimizer, Trainer and record as the stage has them."""
    model = _our_model(workload)
    with tempfile.TemporaryDirectory() as folder:
        trainer = PackedRowsTrainer(
            args=workload.args, model=model, train_dataset=workload.rows(), data_collator=_collator(workload, model)
        )
        record = RunRecord(
            Path(folder),
            tokens_per_step=workload.tokens_per_step,
            flops_per_token=workload.plan.flops_per_token,
            rows_per_epoch=None,
            rows_per_step=workload.plan.batch.rows_per_step,
        )
        trainer.record_into(record, workload.rates)
        _train_quietly(trainer, turns)
    return _ours(workload, model)


def train_loop(workload: Workload, turns: Turns) -> Trained:
    """The same model, optimizer, accumulation and clipping in the shortest loop that trains, over batches that are on
    the device before it begins."""
    args, device = workload.args, workload.device
    model = _our_model(workload).to(device)  # type: ignore[arg-type]
    optimizer = _our_optimizer(workload, model)
    scheduler = warmup_stable_decay(  # the same steps: with others come other numbers, and a CPU is slow at tiny ones
        optimizer,
        warmup_steps=args.get_warmup_steps(MAX_STEPS),
        decay_steps=0,
        total_steps=MAX_STEPS,
        min_lr_ratio=args.min_lr_ratio,
    )
    forward = torch.compile(model) if args.torch_compile else model
    rows, collate, size = workload.rows(), _collator(workload, model), args.per_device_train_batch_size
    collated = [collate([rows[first + row] for row in range(size)]) for first in range(0, 8 * size, size)]
    batches: list[dict[str, Any]] = [send_to_device(batch, device) for batch in collated]
    accumulation, position = args.gradient_accumulation_steps, 0
    # As the Trainer divides: by the tokens of the step that have a label.
    items = torch.tensor(accumulation * size * (workload.plan.batch.max_length - 1), device=device)
    model.train()
    going = turns.start()
    while going:
        for _ in range(accumulation):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bool(args.bf16)):
                loss = forward(**batches[position % len(batches)], num_items_in_batch=items).loss
            loss.backward()
            position += 1
        if args.max_grad_norm:
            nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        going = turns.step_done()
    return _ours(workload, model)


def train_gpt2(workload: Workload, turns: Turns) -> Trained:
    """transformers' GPT-2 of the same depth, width, heads, vocabulary and context, by plain Trainer with its AdamW."""
    from transformers import GPT2Config, GPT2LMHeadModel

    a, args, length = workload.architecture, workload.args, workload.plan.batch.max_length
    config = GPT2Config(
        vocab_size=a["vocab_size"],
        n_positions=length,
        n_embd=a["hidden_size"],
        n_layer=a["num_hidden_layers"],
        n_head=a["num_attention_heads"],
        n_inner=a["intermediate_size"],
        resid_pdrop=0.0,  # as ours has none
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config)
    settings = TrainingArguments(
        output_dir=args.output_dir,
        **QUIET,  # type: ignore[arg-type]
        max_steps=MAX_STEPS,
        per_device_train_batch_size=args.per_device_train_batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        learning_rate=6e-4,
        warmup_steps=100,
        bf16=bool(args.bf16),
        torch_compile=bool(args.torch_compile),
        dataloader_num_workers=args.dataloader_num_workers,
        max_grad_norm=args.max_grad_norm,
        use_cpu=args.use_cpu,
        remove_unused_columns=False,
    )
    collate = collate_rows(0, cross_document_attention=True)  # a plain run gives GPT-2 no position_ids
    _train_quietly(Trainer(model=model, args=settings, train_dataset=workload.rows(), data_collator=collate), turns)
    model.eval()
    if workload.device.type == "cuda":
        model.to(torch.bfloat16)  # type: ignore[arg-type]

    def decode(prompts: list[list[int]], new_tokens: int) -> object:
        ids = torch.tensor(prompts, device=model.device)
        mask = torch.ones_like(ids)
        return model.generate(  # type: ignore[misc]
            ids, attention_mask=mask, do_sample=False, max_new_tokens=new_tokens, eos_token_id=None, pad_token_id=0
        )

    matrices = sum(p.numel() for p in model.parameters()) - model.transformer.wpe.weight.numel()
    attention = 12 * a["num_hidden_layers"] * a["hidden_size"] * length  # PaLM (arXiv:2204.02311), appendix B
    about = {
        "model": "GPT2LMHeadModel",
        "optimizer": OptimizerNames(settings.optim).value,
        "parameters": model.num_parameters(),
    }
    return Trained(6 * matrices + attention, about | {"compiled": settings.torch_compile}, decode)


def _train_quietly(trainer: Trainer, turns: Turns) -> None:
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_TakeTurns(turns))
    trainer.train()


def _our_model(workload: Workload) -> GPTForCausalLM:
    config = GPTConfig(**workload.architecture)
    config._attn_implementation = workload.attn_implementation
    model = GPTForCausalLM(config)
    speed_up(model, workload.args, workload.attn_implementation)
    return model


def _collator(workload: Workload, model: GPTForCausalLM) -> RowCollator:
    return workload.collator(with_lengths=takes_sequence_lengths(model.config))


def _our_optimizer(workload: Workload, model: GPTForCausalLM) -> torch.optim.Optimizer:
    args = workload.args
    if not args.uses_muon:
        optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
        return optimizer_class(options.pop("params", None) or model.parameters(), **options)
    return MuonAdamWFactory()(
        model,
        **workload.rates,
        weight_decay=args.weight_decay,
        momentum=args.muon_momentum,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
    )


def _ours(workload: Workload, model: GPTForCausalLM) -> Trained:
    """Our model after its training; decodes by our engine, in bfloat16 on a GPU."""
    about = {
        "model": type(model).__name__,
        "optimizer": workload.plan.optimizer,
        "parameters": workload.plan.parameters.total,
        "compiled": workload.args.torch_compile,
        "attention": model.config._attn_implementation,
    }
    model.eval()
    if workload.device.type == "cuda":
        model.to(torch.bfloat16)  # type: ignore[arg-type]
    words = {"<|bos|>": 0, "<|unk|>": 1}  # nothing is written in this benchmark: tokens are enough
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<|unk|>")), bos_token="<|bos|>"
    )
    model.generation_config.eos_token_id = None
    engine = Engine(model, tokenizer)

    def decode(prompts: list[list[int]], new_tokens: int) -> object:
        return [step.tokens for step in engine.steps(prompts, Sampling(temperature=0, max_new_tokens=new_tokens))]

    return Trained(workload.plan.flops_per_token, about, decode)
