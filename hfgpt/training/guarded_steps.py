"""A Trainer that acts on what its guards find: stops, leaves an update out, or goes back to the last checkpoint.

Every process judges the same numbers, so all do the same. Nothing is waited for on a GPU: what a step came to is read
when the next one is under way, and an update is left out on the device itself.
"""

import math
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn
from torch.distributed.tensor import DTensor
from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from hfgpt.errors import UserError
from hfgpt.training.arguments import StageArguments
from hfgpt.training.distributed_muon import local_part
from hfgpt.training.failures import explained_failures
from hfgpt.training.guards import Fault, Guards
from hfgpt.training.late_reading import LateReading
from hfgpt.training.optimizer import MuonAdamW
from hfgpt.training.rank_check import disagreement, step_and_checksum
from hfgpt.training.saving import CompleteCheckpoints

CALM_DOWN = "lower the learning rates or raise warmup_steps and start anew with --overwrite"

MOST_OVERFLOWS = 32  # from its usual beginning, 65536, a scale of the loss comes down to 1e-5 in so many steps


class GuardedSteps(CompleteCheckpoints):
    """Judges every step's loss and gradient norm (guards.py), and now and then whether the processes agree."""

    args: StageArguments
    guards: Guards

    def add_guards(self) -> None:
        """Must be called before `train`."""
        args = self.args
        self.guards = Guards(
            args.guard_policies(),
            window=args.guard_window,
            zscore=args.loss_spike_zscore,
            norm_factor=args.grad_norm_factor,
        )
        self._late = LateReading()
        self._step_loss: torch.Tensor | None = None  # the mean of the step under way, as far as it was computed
        self._last_finite_loss = torch.zeros((), device=args.device)
        self._check_is_due = True
        self._overflows_in_a_row = 0
        self.add_callback(_KeepsGuards(self.guards))

    def train(self, *args, **kwargs):
        with explained_failures(self, self.args):
            return super().train(*args, **kwargs)

    def evaluate(self, *args, **kwargs):
        with explained_failures(self, self.args):
            return super().evaluate(*args, **kwargs)

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self._step_loss = loss if self._step_loss is None else self._step_loss + loss
        if self.args.nan_policy == "stop":
            return loss
        # One loss that is not finite would hide the mean of all: the one before stands in for it.
        self._last_finite_loss = torch.where(torch.isfinite(loss), loss, self._last_finite_loss)
        return self._last_finite_loss

    def _get_grad_norm(self, model, grad_norm=None):
        """Called once a step, when the gradients are whole and clipped and the update is yet to come."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        if self._judge_the_step_before():
            _drop_gradients(model)  # of weights that are no more
        else:
            self._watch(model, grad_norm)
        self._step_loss = None
        return grad_norm

    def _watch(self, model: nn.Module, grad_norm: torch.Tensor | float | None) -> None:
        """Have the update left out where it must be, and send what the step came to on its way to the host."""
        assert self._step_loss is not None
        loss = self.accelerator.reduce(self._step_loss.detach().float(), "mean")
        norm = _as_scalar(grad_norm, loss.device)
        if limits := self.guards.skip_above():
            self._leave_out(model, ~((loss <= limits.loss) & (norm <= limits.grad_norm)))
        values, every = [torch.stack([loss, norm])], self.args.rank_check_steps
        if self.args.world_size > 1 and every and (self._check_is_due or self.state.global_step % every == 0):
            self._check_is_due = False
            values.append(self._steps_and_checksums(model))
        self._late.take(self.state.global_step + 1, *values)

    def _leave_out(self, model: nn.Module, is_bad: torch.Tensor) -> None:
        """Make the update change nothing where `is_bad`, a bool on the device."""
        assert isinstance(self.optimizer, AcceleratedOptimizer)
        optimizer = self.optimizer.optimizer
        takes_found_inf = isinstance(optimizer, MuonAdamW) or optimizer.defaults.get("fused")
        if is_bad.device.type == "cuda" and takes_found_inf and not self._scales_loss:
            optimizer.found_inf = is_bad.float()
        elif is_bad.item():  # for other optimizers a GPU must be waited for
            _drop_gradients(model)

    @property
    def _scales_loss(self) -> bool:
        """Under float16 norms that are not finite are usual: the scaler finds its scale by them."""
        return self.accelerator.scaler is not None

    def _steps_and_checksums(self, model: nn.Module) -> torch.Tensor:
        return self.accelerator.gather(step_and_checksum(self.state.global_step, model))

    def _judge_the_step_before(self) -> bool:
        """Judge the step whose numbers are on their way, if any; whether the run went back to a checkpoint."""
        late = self._late.read()
        if late is None:
            return False
        step, (health, *ranks) = late
        if ranks and (found := disagreement(ranks[0])):
            raise UserError(found)
        loss, norm = health.tolist()
        if self._scales_loss:
            self._count_overflows(step, norm)
        overflows = self._scales_loss and not math.isfinite(norm)
        fault = self.guards.judge(step, loss, None if overflows else norm)
        if fault is None:
            return False
        if self.args.process_index == 0:
            tqdm.write(f"guard: {fault.in_words()}: {fault.policy}")
        self._stop_if_it_must(fault)
        if fault.policy == "rollback":
            self._go_back()
        return fault.policy == "rollback"

    def _count_overflows(self, step: int, norm: float) -> None:
        """Under float16 the scaler leaves out every update whose norm is not finite, and halves the loss's scale."""
        self._overflows_in_a_row = 0 if math.isfinite(norm) else self._overflows_in_a_row + 1
        if self._overflows_in_a_row >= MOST_OVERFLOWS:
            raise UserError(
                f"the gradient's norm is {norm} at step {step} and was not finite in {MOST_OVERFLOWS} steps in a row, "
                f"at whatever scale of float16: {CALM_DOWN}, or set bf16 instead of fp16."
            )

    def _stop_if_it_must(self, fault: Fault) -> None:
        guards, most = self.guards, self.args.guard_limit
        if fault.policy == "stop":
            if fault.key == "nan_policy":
                raise UserError(f"{fault.in_words()}: {CALM_DOWN}; nothing that is not finite was saved.")
            raise UserError(f"{fault.in_words()}, and {fault.key} is stop: {CALM_DOWN}, or set it to skip.")
        if guards.skipped_in_a_row >= most or guards.rollbacks > most:
            done = (
                f"{most} updates in a row were left out" if fault.policy == "skip" else f"{most} rollbacks were made"
            )
            raise UserError(
                f"{fault.in_words()}, after {done} (guard_limit): {CALM_DOWN}, or set {fault.key} to another policy."
            )

    def _go_back(self) -> None:
        """Take weights and optimizer state from the last complete checkpoint. Step, schedule and data go on from where
        they are, so that what led here is not seen again."""
        self.finish_checkpoint()
        self.accelerator.wait_for_everyone()
        folder = self.newest_checkpoint(lambda words: None)
        if folder is None:
            raise UserError(
                "rollback found no complete checkpoint to go back to: lower save_steps, or set the policy to skip."
            )
        if self.args.process_index == 0:
            tqdm.write(f"guard: back to the weights of {folder}")
        assert self.optimizer is not None and self.lr_scheduler is not None
        schedule, rates = self.lr_scheduler.state_dict(), [group["lr"] for group in self.optimizer.param_groups]
        self._load_from_checkpoint(str(folder), self.model_wrapped if self.is_fsdp_enabled else None)
        self._load_optimizer_and_scheduler(str(folder))
        self.lr_scheduler.load_state_dict(schedule)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def faults_since_last_asked(self) -> list[dict[str, Any]]:
        """Faults up to the step just made, as metrics.jsonl takes them. Waits for the device."""
        self._judge_the_step_before()
        return self.guards.take_unrecorded()

    def _save_checkpoint(self, model, trial):
        """Only of steps that were judged, of finite weights, and where all processes agree."""
        self._judge_the_step_before()
        self._refuse_what_is_not_finite(model)
        if self.args.rank_check_steps and (found := disagreement(self._steps_and_checksums(model))):
            raise UserError(found)
        super()._save_checkpoint(model, trial)

    def save_model(self, output_dir=None, _internal_call=False):
        if not _internal_call:  # the stage's result, before which there may have been no checkpoint
            self._refuse_what_is_not_finite(self.model)
        super().save_model(output_dir, _internal_call)

    def _refuse_what_is_not_finite(self, model: nn.Module) -> None:
        if not self._are_finite(model):
            raise UserError(
                f"the weights hold values that are not finite at step {self.state.global_step}: {CALM_DOWN}; nothing "
                "that is not finite was saved."
            )

    def _are_finite(self, model: nn.Module) -> bool:
        """Whether all weights are, in the parts that all processes hold, so that all say the same."""
        finite = torch.stack([torch.isfinite(local_part(p)).all() for p in model.parameters()]).all()
        return bool(self.accelerator.gather(finite.view(1)).all())


class _KeepsGuards(TrainerCallback, ExportableState):
    """Keeps what the guards know in a checkpoint's trainer_state.json, and gives it back to a run that goes on."""

    def __init__(self, guards: Guards):
        self.guards = guards

    def state(self) -> dict:
        return {"args": {}, "attributes": self.guards.state()}

    def on_train_begin(self, args, state, control, **kwargs):
        kept = state.stateful_callbacks.get(type(self).__name__)
        if state.global_step and kept:
            self.guards.restore(kept["attributes"])


def _as_scalar(norm: torch.Tensor | float | None, device: torch.device) -> torch.Tensor:
    """The norm as () float32 on the device, the same on all processes; 0 where DeepSpeed tells none."""
    if isinstance(norm, torch.Tensor):
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        return whole.detach().to(device, torch.float32)
    return torch.full((), norm or 0.0, device=device)


def _drop_gradients(model: nn.Module) -> None:
    """Without gradients an optimizer changes neither weights nor state."""
    for parameter in model.parameters():
        parameter.grad = None
