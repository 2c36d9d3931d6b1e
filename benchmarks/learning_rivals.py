"""One rival of the learning benchmark, trained on the rows and in the order of a prepared hfgpt run.

    python benchmarks/learning_rivals.py nanochat --checkout NANOCHAT --prepared DIR --tokenizer DIR --seed 1 ...
    python benchmarks/learning_rivals.py gpt2 --learning_rate 1e-3 --prepared DIR --tokenizer DIR --seed 1 ...
    python benchmarks/learning_rivals.py llama --learning_rate 1e-2 --muon_learning_rate 0.02 --prepared DIR ...

Prints one JSON object an evaluation: step, seconds of training, bits_per_byte. nanochat's model and optimizer
are imported from its own checkout, with the defaults of its base_train.py; GPT-2 is transformers', trained by HF's
Trainer with AdamW; Llama is transformers', trained by torch's own Muon and AdamW.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer

from hfgpt.data.rows import OrderedRows, RowCollator
from hfgpt.data.tokenizer import token_byte_lengths

Logits = Callable[[torch.Tensor], torch.Tensor]
EVALUATION_ROWS = 16


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("side", choices=RIVALS)
    parser.add_argument("--prepared", type=Path, required=True, help="Folder of prepared rows.")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--depth", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True, help="Rows in one step.")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--eval_steps", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--checkout", type=Path, help="nanochat's repository.")
    parser.add_argument("--compile", action="store_true", help="nanochat compiles its model.")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="GPT-2's and Llama's, of AdamW.")
    parser.add_argument("--muon_learning_rate", type=float, default=0.02, help="Llama's, of its blocks' matrices.")
    return parser.parse_args()


class Judge:
    """Bits per byte on the held-out rows; prints each figure with the seconds of training before it."""

    def __init__(self, prepared: Path, tokenizer: Path):
        self.rows = datasets.load_from_disk(str(prepared / "validation")).with_format("torch")["input_ids"][:]
        self.token_bytes = torch.from_numpy(token_byte_lengths(AutoTokenizer.from_pretrained(tokenizer))).double()

    def judge(self, logits_of: Logits, step: int, durations: list[float], tokens_per_step: int) -> None:
        """The figures after `step` steps that took `durations` (seconds); each counts as the median one, which leaves
        compilation out."""
        usual = sorted(durations)[len(durations) // 2]
        figures = {
            "step": step,
            "seconds": round(step * usual, 2),
            "tokens_per_second": round(tokens_per_step / usual, 1),
            "bits_per_byte": self.bits_per_byte(logits_of),
        }
        print(json.dumps(figures), flush=True)

    @torch.no_grad()
    def bits_per_byte(self, logits_of: Logits) -> float:
        """Every position of a row but the last predicts the next token, as in hfgpt's own evaluation."""
        nats = num_bytes = 0.0
        for rows in self.rows.split(EVALUATION_ROWS):
            targets = rows[:, 1:].reshape(-1)
            logits = logits_of(rows)[:, :-1].float()
            losses = F.cross_entropy(logits.reshape(len(targets), -1), targets, reduction="none").double()
            weights = self.token_bytes[targets]
            nats += losses[weights > 0].sum().item()
            num_bytes += weights.sum().item()
        return nats / math.log(2) / num_bytes


def train_nanochat(arguments: argparse.Namespace, rows: OrderedRows, vocab_size: int, judge: Judge) -> None:
    """nanochat's GPT and MuonAdamW under the schedules, scalings and defaults of its scripts/base_train.py."""
    sys.path.insert(0, str(arguments.checkout))
    from nanochat.gpt import GPT, GPTConfig

    context = len(rows[0]["input_ids"])

    def build(depth: int, heads: int):
        with torch.device("meta"):
            config = GPTConfig(
                sequence_len=context,
                vocab_size=vocab_size,
                n_layer=depth,
                n_head=heads,
                n_kv_head=heads,
                n_embd=64 * depth,
                window_pattern="L",
            )
            return GPT(config)

    def scaling_parameters(model) -> int:
        counts = model.num_scaling_params()
        return counts["transformer_matrices"] + counts["lm_head"]

    model = build(arguments.depth, arguments.depth)  # heads of 64
    model.to_empty(device="cpu")
    model.init_weights()
    batch_ratio = arguments.rows * context / 2**19
    horizon_ratio = scaling_parameters(build(12, 6)) / scaling_parameters(model)
    decay = 0.28 * batch_ratio**0.5 * horizon_ratio
    rates = {"unembedding_lr": 0.008, "embedding_lr": 0.3, "scalar_lr": 0.5, "matrix_lr": 0.02}
    optimizer = model.setup_optimizer(
        **{name: rate * batch_ratio**0.5 for name, rate in rates.items()}, weight_decay=decay
    )
    forward = torch.compile(model, dynamic=False) if arguments.compile else model
    steps, warmdown = arguments.steps, round(0.65 * arguments.steps)
    durations: list[float] = []
    for step in range(steps):
        batch = batch_of(rows, step, arguments.rows)
        targets = F.pad(batch[:, 1:], (0, 1), value=-1)
        began = time.perf_counter()
        forward(batch, targets).backward()
        left = (steps - step) / warmdown if step > steps - warmdown else 1.0  # of the constant rates
        factor = (step + 1) / 40 if step < 40 else left + (1 - left) * 0.05
        momentum = 0.85 + 0.12 * step / 400 if step < 400 else 0.97 - 0.07 * (1 - left)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
            if group["kind"] == "muon":
                group["momentum"] = momentum
                group["weight_decay"] = decay * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.step()
        model.zero_grad(set_to_none=True)
        durations.append(time.perf_counter() - began)
        if (step + 1) % arguments.eval_steps == 0 or step + 1 == steps:
            judge.judge(model, step + 1, durations, batch.numel())


def train_gpt2(arguments: argparse.Namespace, rows: OrderedRows, vocab_size: int, judge: Judge) -> None:
    """transformers' GPT-2 by HF's Trainer with its fused AdamW, cosine schedule, 5% warmup and clipping at 1."""
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    context, width = len(rows[0]["input_ids"]), 64 * arguments.depth
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab_size,
            n_positions=context,
            n_embd=width,
            n_layer=arguments.depth,
            n_head=arguments.depth,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    durations: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            durations.append(-time.perf_counter())

        def on_step_end(self, args, state, control, **kwargs):
            durations[-1] += time.perf_counter()
            step = state.global_step
            if step % arguments.eval_steps == 0 or step == arguments.steps:
                model.eval()
                judge.judge(lambda ids: model(ids).logits, step, durations, arguments.rows * context)
                model.train()

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=arguments.steps,
            per_device_train_batch_size=arguments.rows,
            learning_rate=arguments.learning_rate,
            weight_decay=0.1,
            adam_beta2=0.95,
            lr_scheduler_type="cosine",
            warmup_steps=round(0.05 * arguments.steps),
            max_grad_norm=1.0,
            seed=arguments.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            remove_unused_columns=False,
        )
        collate = RowCollator(bos_token_id=0, cross_document_attention=True)
        trainer = Trainer(model=model, args=settings, train_dataset=rows, data_collator=collate, callbacks=[Clock()])
        trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)  # type: ignore[method-assign]
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.train()


def train_llama(arguments: argparse.Namespace, rows: OrderedRows, vocab_size: int, judge: Judge) -> None:
    """transformers' Llama, torch.optim.Muon for the matrices of its blocks and AdamW for the rest, ten steps of warmup
    and a linear decay to zero over the second half: what one puts together by hand."""
    from transformers import LlamaConfig, LlamaForCausalLM

    context, width = len(rows[0]["input_ids"]), 64 * arguments.depth
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            max_position_embeddings=context,
            hidden_size=width,
            intermediate_size=round(8 / 3 * width / 64) * 64,
            num_hidden_layers=arguments.depth,
            num_attention_heads=arguments.depth,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    of_blocks = set(map(id, matrices))
    others = [p for p in model.parameters() if id(p) not in of_blocks]
    optimizers = [
        torch.optim.Muon(matrices, lr=arguments.muon_learning_rate, weight_decay=0.0),
        torch.optim.AdamW(others, lr=arguments.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    steps, decay = arguments.steps, arguments.steps / 2

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / 10, (steps - step) / decay)

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, factor) for optimizer in optimizers]
    durations: list[float] = []
    for step in range(steps):
        batch = batch_of(rows, step, arguments.rows)
        began = time.perf_counter()
        model(batch, labels=batch, use_cache=False).loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        model.zero_grad(set_to_none=True)
        durations.append(time.perf_counter() - began)
        if (step + 1) % arguments.eval_steps == 0 or step + 1 == steps:
            judge.judge(lambda ids: model(ids, use_cache=False).logits, step + 1, durations, batch.numel())


def batch_of(rows: OrderedRows, step: int, size: int) -> torch.Tensor:
    """Token ids (rows, context) of one step."""
    items = rows.__getitems__(list(range(step * size, (step + 1) * size)))
    return torch.stack([torch.from_numpy(item["input_ids"].astype("int64")) for item in items])


RIVALS = {"nanochat": train_nanochat, "gpt2": train_gpt2, "llama": train_llama}


def main() -> None:
    arguments = parse_arguments()
    torch.set_flush_denormal(True)  # as hfgpt's own stages do
    torch.manual_seed(arguments.seed)
    train = datasets.load_from_disk(str(arguments.prepared / "train"))
    rows = OrderedRows(train, arguments.seed, arguments.steps * arguments.rows)
    vocab_size = len(AutoTokenizer.from_pretrained(arguments.tokenizer))
    judge = Judge(arguments.prepared, arguments.tokenizer)
    RIVALS[arguments.side](arguments, rows, vocab_size, judge)


if __name__ == "__main__":
    main()
