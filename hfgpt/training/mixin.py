"""What every trainer of hfgpt does beside training: Muon, records, guards, complete checkpoints. The same class serves
HF's Trainer and TRL's three."""

import math
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from hfgpt.errors import UserError
from hfgpt.model import GPTForCausalLM
from hfgpt.package_versions import fsdp2_lets_head_be_skipped
from hfgpt.training.arguments import StageArguments
from hfgpt.training.exact_resume import ExactResume
from hfgpt.training.guarded_steps import GuardedSteps
from hfgpt.training.hardware import peak_memory_bytes
from hfgpt.training.optimizer import MuonAdamWFactory
from hfgpt.training.preemption import LoadersOutliveSignals
from hfgpt.training.record import RunRecord
from hfgpt.training.schedules import warmup_stable_decay
from hfgpt.training.step_timing import PHASE_SECONDS, StepTimer, TimedSteps

# Names in metrics.jsonl for what HF's Trainer calls otherwise.
NAMES = {"eval_loss": "val_loss", "eval_bits_per_byte": "val_bits_per_byte"}
KEPT = (
    *("loss", "grad_norm", "learning_rate", *NAMES),
    *("mean_token_accuracy", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected"),
    *("eval_mean_token_accuracy", "eval_rewards/accuracies", "eval_rewards/margins"),
    *("reward", "reward_std", "kl", "entropy", "completions/mean_length", "completions/clipped_ratio"),
)

# What the record adds to the lines of progress and to the trackers.
SHOWN = ("tokens", "tokens_per_second", "mfu", "peak_memory_bytes", *PHASE_SECONDS)


class RecordedTrainer(ExactResume, GuardedSteps, TimedSteps, LoadersOutliveSignals):
    """A Trainer that writes metrics.jsonl, optimises by Muon where the recipe says so, and guards its steps.

    For TRL's trainers name it after theirs, `class SftTrainer(SFTTrainer, RecordedTrainer)`: what they log then comes
    through here. `record_into` must be called before `train`.
    """

    args: StageArguments
    record: RunRecord
    tokens_are_counted = False  # True where only TRL's own count knows how many tokens a step had

    def record_into(self, record: RunRecord, rates: dict[str, float], bigram_weight_decay: float = 0.0) -> None:
        """Write records to `record`; `rates` are those of the parameter groups, `bigram_weight_decay` holds where the
        stage's own key is null."""
        self.record = record
        self.add_guards()
        self.step_timer = StepTimer(self.args.device)
        self.add_callback(_Clock(record, self.step_timer))
        if self.args.uses_muon:
            own_decay = self.args.bigram_weight_decay
            options: dict[str, Any] = {
                "weight_decay": self.args.weight_decay,
                "bigram_weight_decay": bigram_weight_decay if own_decay is None else own_decay,
                "momentum": self.args.muon_momentum,
                "betas": (self.args.adam_beta1, self.args.adam_beta2),
                "eps": self.args.adam_epsilon,
            }
            self.optimizer_cls_and_kwargs = (MuonAdamWFactory, rates | options)  # type: ignore[assignment]

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        if not self.is_fsdp_enabled:
            if parse_flag_from_env("ACCELERATE_USE_FSDP"):
                raise UserError("FSDP2 shards over GPUs only: launch with accelerate_configs/cpu_ddp.yaml.")
            return
        plugin = self.accelerator.state.fsdp_plugin
        if plugin.mixed_precision_policy is not None:
            # accelerate would sum gradients in bfloat16, and cast the loss to it. What modules pass to each other
            # stays as they made it: float32 beside bfloat16 weights is refused by linears.
            plugin.mixed_precision_policy = replace(
                plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None
            )

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.is_fsdp_enabled:
            # transformers' own mark, which accelerate forgets: `generate` then goes on in all processes, which must
            # gather parameters together, until the last of them has ended.
            self.model._is_fsdp_managed_module = True
            model = self.accelerator.unwrap_model(self.model)
            if isinstance(model, GPTForCausalLM) and fsdp2_lets_head_be_skipped():
                model.head_is_sharded = True
        return prepared

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.args.uses_muon:  # the pairs' decay follows from the run's length, which may be another now
            for group in self.optimizer.param_groups:
                if group.get("name") == "bigrams":
                    group["weight_decay"] = self.optimizer_cls_and_kwargs[1]["bigram_weight_decay"]

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.lr_scheduler is None and self.args.lr_scheduler_type == "warmup_stable_decay":
            options = dict(self.args.lr_scheduler_kwargs or {})
            self.lr_scheduler = warmup_stable_decay(
                optimizer or self.optimizer,
                warmup_steps=self.args.get_warmup_steps(num_training_steps),
                decay_steps=options.get("num_decay_steps", round(self.args.decay_ratio * num_training_steps)),
                total_steps=num_training_steps,
                min_lr_ratio=options.get("min_lr_ratio", self.args.min_lr_ratio),
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def evaluate(self, *args, **kwargs):
        with self.record.paused():
            return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, model, trial):
        with self.record.paused():
            super()._save_checkpoint(model, trial)
        if self.last_save is not None:
            save = {"save_seconds": round(self.last_save.seconds, 3), "checkpoint_bytes": self.last_save.num_bytes}
            counted = {"tokens": self.record.last_tokens} if self.tokens_are_counted else {}
            self.record.append(self.last_save.step, save | counted)

    def log(self, logs, start_time=None):
        if "eval_nats_per_token" in logs:  # HF's own eval_loss counts rows twice where processes share them unevenly
            logs["eval_loss"] = logs.pop("eval_nats_per_token")
        faults = self.faults_since_last_asked() if "loss" in logs else []
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            del logs["grad_norm"]  # of an update that was left out
        step = self.state.global_step
        values = {NAMES.get(name, name): logs[name] for name in KEPT if name in logs}
        if self.tokens_are_counted and "num_tokens" in logs:
            values["tokens"] = logs["num_tokens"]
        if "loss" in logs:
            values.update(self.record.speed(step))
            values.update(self.step_timer.read())
            values["peak_memory_bytes"] = peak_memory_bytes(self.args.device)
            values.update({"faults": faults} if faults else {})
        if values:
            record = self.record.append(step, values)
            logs.update({name: record[name] for name in SHOWN if name in record})
        super().log(logs, start_time)


class _Clock(TrainerCallback, ExportableState):
    """Starts the record's clock at the first or the resumed step, stops it at the end; has the last step logged."""

    def __init__(self, record: RunRecord, step_timer: StepTimer):
        self.record, self.step_timer = record, step_timer

    def state(self) -> dict:
        """What a checkpoint's trainer_state.json keeps."""
        return {"args": {}, "attributes": {"seconds": self.record.elapsed()}}

    def on_train_begin(self, args, state, control, **kwargs):
        kept = state.stateful_callbacks.get(type(self).__name__, {})
        self.record.start(state.global_step, kept.get("attributes", {}).get("seconds") if state.global_step else None)

    def on_step_end(self, args, state, control, **kwargs):
        self.step_timer.end_step()  # before the samples, which come after
        if state.global_step == state.max_steps:
            control.should_log = True

    def on_train_end(self, args, state, control, **kwargs):
        self.record.stop()
