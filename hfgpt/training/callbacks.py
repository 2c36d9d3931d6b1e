"""What happens beside the training step: samples from fixed prompts, readable progress lines, histograms."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerState
from transformers.trainer_callback import ProgressCallback

from hfgpt.training.record import RunRecord
from hfgpt.training.record_file import RecordFile
from hfgpt.training.step_timing import PHASE_SECONDS, PHASES

SAMPLES_FILE = "samples.jsonl"


class SampleCallback(TrainerCallback):
    """Continues fixed prompts, or with `as_chat` answers them, before the first step, every `every` steps and after
    the last, into samples.jsonl.

    Greedy, so that no random state is touched and two runs can be compared. Every process continues the prompts, since
    sharded weights are gathered by all; the main one writes.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[str],
        folder: Path,
        record: RunRecord,
        *,
        every: int,
        max_new_tokens: int,
        as_chat: bool = False,
    ):
        self.tokenizer, self.prompts, self.record = tokenizer, list(prompts), record
        self.as_chat = as_chat
        self.samples = RecordFile(folder / SAMPLES_FILE)
        self.every, self.max_new_tokens = every, max_new_tokens

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0 and self.every:
            self._sample(model, state, args.bf16)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        due = self.every and (state.global_step % self.every == 0 or state.global_step == state.max_steps)
        if due:
            self._sample(model, state, args.bf16)

    def _sample(self, model: PreTrainedModel, state: TrainerState, bf16: bool) -> None:
        with self.record.paused():
            completions = continue_prompts(
                model, self.tokenizer, self.prompts, self.max_new_tokens, bf16, as_chat=self.as_chat
            )
        if state.is_world_process_zero:
            for prompt, completion in zip(self.prompts, completions, strict=True):
                tqdm.write(f"step {state.global_step} sample | {prompt} →{' ' + ' '.join(completion.split())}")
                self.samples.append({"step": state.global_step, "prompt": prompt, "completion": completion})


def continue_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    bf16: bool = False,
    as_chat: bool = False,
) -> list[str]:
    """Greedy continuation of each prompt, the text after the prompt only, within the model's positions; with
    `as_chat` the assistant's answer to it.

    Computes in bfloat16 where training does (`bf16`); the model's mode is left as it was.
    """
    was_training = model.training
    model.eval()
    completions: list[str] = []
    positions = getattr(model.config, "max_position_embeddings", None)
    with torch.no_grad(), torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16):
        for prompt in prompts:  # one at a time: padding would be another thing to get right
            text = prompt
            if as_chat:
                said = [{"role": "user", "content": prompt}]
                text = str(tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False))
            inputs = tokenizer(text, add_special_tokens=not as_chat, return_tensors="pt").to(model.device)
            stop = {t for t in (tokenizer.bos_token_id, tokenizer.eos_token_id) if t is not None}
            room = max_new_tokens if positions is None else positions - inputs["input_ids"].shape[1]
            if room < 1:
                completions.append("")
                continue
            output = model.generate(  # type: ignore[operator]
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=min(max_new_tokens, room),
                do_sample=False,
                eos_token_id=sorted(stop),
                pad_token_id=tokenizer.pad_token_id,
            )
            new_tokens = output[0, inputs["input_ids"].shape[1] :]
            completions.append(str(tokenizer.decode(new_tokens, skip_special_tokens=True)))
    model.train(was_training)
    return completions


class ProgressLines(ProgressCallback):
    """HF's progress bar, with one readable line where HF prints a dict."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        line = progress_line(state.global_step, state.max_steps, logs or {})
        if line and self.training_bar is not None:
            self.training_bar.write(line)


class PlainLines(TrainerCallback):
    """The same lines without a bar, for `disable_tqdm` and log files."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        line = progress_line(state.global_step, state.max_steps, logs or {})
        if line and state.is_world_process_zero:
            print(line, flush=True)


def progress_line(step: int, max_steps: int, logs: dict) -> str:
    """One line of a log record, or "" for records that say nothing new about training."""
    shown = {
        "loss": "loss {:.4f}",
        "eval_loss": "held-out loss {:.4f}",
        "eval_bits_per_byte": "held-out bits per byte {:.4f}",
        "grad_norm": "grad norm {:.2f}",
        "learning_rate": "lr {:.2e}",
        "tokens": "{:,} tokens",
        "tokens_per_second": "{:,.0f} tok/s",
        "reward": "reward {:.3f}",
        "rewards/accuracies": "chosen preferred {:.1%}",
        "eval_rewards/accuracies": "chosen preferred {:.1%}",
        "mean_token_accuracy": "token accuracy {:.1%}",
        "mfu": "MFU {:.1%}",
    }
    parts = [words.format(logs[name]) for name, words in shown.items() if name in logs]
    if "peak_memory_bytes" in logs:
        parts.append(f"peak {logs['peak_memory_bytes'] / 2**30:.2f} GiB")
    if spent := {phase: logs[name] for phase, name in zip(PHASES, PHASE_SECONDS, strict=True) if name in logs}:
        parts.append(", ".join(f"{phase} {s / sum(spent.values()):.0%}" for phase, s in spent.items()))
    informative = "loss" in logs or "eval_loss" in logs
    return f"step {step:>{len(str(max_steps))}}/{max_steps} | " + " | ".join(parts) if informative else ""


class HistogramCallback(TrainerCallback):
    """Histograms of every weight and gradient at logging steps, to the trackers in `report_to`."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        step = state.global_step + 1
        if step % max(1, math.ceil(state.logging_steps)) == 0:
            tensors = {}
            for name, parameter in model.named_parameters():
                tensors[f"weights/{name}"] = _whole(parameter.detach())
                if parameter.grad is not None:
                    tensors[f"gradients/{name}"] = _whole(parameter.grad)
            if state.is_world_process_zero:
                for tracker in set(args.report_to) & set(_REPORTERS):
                    _REPORTERS[tracker](self, tensors, step, args)

    def _tensorboard(self, tensors, step, args):
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(Path(args.output_dir) / "runs" / "histograms")) as writer:
            for name, tensor in tensors.items():
                writer.add_histogram(name, tensor, step)

    def _wandb(self, tensors, step, args):
        import wandb

        wandb.log({name: wandb.Histogram(tensor) for name, tensor in tensors.items()}, commit=False)

    def _trackio(self, tensors, step, args):
        import trackio

        trackio.log({name: trackio.Histogram(tensor.numpy()) for name, tensor in tensors.items()}, step=step)


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the CPU in float32; shards are put together, at which every process must be."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).float().cpu()


_REPORTERS = {
    "tensorboard": HistogramCallback._tensorboard,
    "wandb": HistogramCallback._wandb,
    "trackio": HistogramCallback._trackio,
}
