"""The plan of a run: how large the model is, how long it trains and why, as numbers and as text. Imports no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hfgpt.errors import UserError
from hfgpt.recipe_values import shown
from hfgpt.training.budget import (
    DEPTH_SERIES_RATIO,
    BatchPlan,
    Length,
    ParameterCount,
    count_parameters,
    default_batch_rows,
    flops_per_token,
    plan_batch,
    rows_that_divide,
    scaling_parameters,
    steps_by_method,
)
from hfgpt.training.galore import GaLore, linears
from hfgpt.training.memory import is_counted, state_bytes
from hfgpt.training.rates import MUON_RATE, default_rates, fill_rates, muon_rate


@dataclass(frozen=True)
class Plan:
    """Every number that a stage derives before its first step."""

    architecture: Mapping[str, Any]
    parameters: ParameterCount
    flops_per_token: int
    batch: BatchPlan
    lengths: list[Length]
    train_rows: int | None
    optimizer: str
    rates: Mapping[str, float]
    most_rows: int  # of a pass, as the recipe says; the batch may need fewer
    galore: GaLore | None = None

    @property
    def length(self) -> Length:
        return self.lengths[0]

    @property
    def max_steps(self) -> int:
        """Steps of the run; UserError while they depend on data that is not prepared."""
        if self.length.steps is None:
            raise UserError(
                "num_train_epochs needs the number of rows, which a stream does not know: give max_steps, "
                "target_flops or target_param_data_ratio."
            )
        return self.length.steps

    @property
    def total_tokens(self) -> int:
        return self.max_steps * self.batch.tokens_per_step

    @property
    def epochs(self) -> float | None:
        """How often the run reads each row, None for a stream."""
        return self._epochs(self.max_steps)

    def same_length(self) -> dict[str, str]:
        """The run's length as each of the three methods would say it, as values of their keys."""
        tokens = self.total_tokens
        return {
            "max_steps": str(self.max_steps),
            "target_flops": f"{tokens * self.flops_per_token:.4g}",
            "target_param_data_ratio": f"{tokens / scaling_parameters(self.architecture):.4g}",
        }

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON values: tokens, FLOPs and bytes as plain numbers."""
        known = self.length.steps is not None
        return {
            "parameters": asdict(self.parameters) | {"total": self.parameters.total},
            "scaling_parameters": scaling_parameters(self.architecture),
            "flops_per_token": self.flops_per_token,
            "max_length": self.batch.max_length,
            "per_device_batch_size": self.batch.per_device_batch_size,
            "num_processes": self.batch.num_processes,
            "grad_accum_steps": self.batch.grad_accum_steps,
            "tokens_per_step": self.batch.tokens_per_step,
            "lengths": [asdict(length) for length in self.lengths],
            "same_length": self.same_length() if known else None,
            "steps": self.length.steps,
            "tokens": self.total_tokens if known else None,
            "flops": self.total_tokens * self.flops_per_token if known else None,
            "train_rows": self.train_rows,
            "optimizer": self.optimizer,
            "rates": dict(self.rates),
            "state_bytes": state_bytes(self.architecture, self.optimizer, self.galore),
        }

    def as_text(self) -> str:
        """The plan as a few lines for a person."""
        a, b, p = self.architecture, self.batch, self.parameters
        groups = " + ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in asdict(p).items() if count)
        state = state_bytes(a, self.optimizer, self.galore)
        lines = [
            f"model       {a['num_hidden_layers']} layers, {a['hidden_size']} wide, {a['num_attention_heads']} heads "
            f"of {a['head_dim']}, vocabulary {a['vocab_size']:,}, context {b.max_length:,}",
            f"parameters  {p.total:,} = {groups}",
            f"state       {sum(state.values()) / 2**30:.2f} GiB of weights, gradients and optimizer state in float32 "
            "on one process; activations come on top"
            + ("" if is_counted(self.optimizer, self.galore) else f" ({self.optimizer} counted as AdamW)"),
            f"FLOPs       {self.flops_per_token:,} for one token, forward and backward",
            f"batch       {b.max_length:,} x {b.per_device_batch_size} rows x {b.num_processes} process(es) x "
            f"{b.grad_accum_steps} accumulation = {b.tokens_per_step:,} tokens a step"
            + (f" ({self.most_rows} rows do not divide it)" if self.most_rows != b.per_device_batch_size else ""),
        ]
        for i, length in enumerate(self.lengths):
            lines.append(f"{'length' if i == 0 else '':<11} {self._length_line(length)}")
        if self.length.steps is not None:
            same = " or ".join(f"{method} {value}" for method, value in self.same_length().items())
            lines.append(f"            as many tokens by {same}")
        rates = ", ".join(f"{name.removesuffix('_rate').replace('_', ' ')} {r:.3g}" for name, r in self.rates.items())
        if self.optimizer == "muon" and self.length.steps is None and self.rates["learning_rate"] == MUON_RATE:
            rates = rates.replace(", ", " (more if steps turn out few and large), ", 1)
        lines.append(f"optimizer   {self.optimizer}: {rates}")
        return "\n".join(lines)

    def _length_line(self, length: Length) -> str:
        used = "used" if length is self.length else "not used"
        if length.steps is None:
            return f"{length.by}: known when the data is prepared ({used})"
        tokens = length.steps * self.batch.tokens_per_step
        epochs = self._epochs(length.steps)
        ratio = tokens / scaling_parameters(self.architecture)
        return (
            f"{length.by}: {length.steps:,} steps, {tokens:,} tokens ({ratio:.1f} per block and head parameter), "
            f"{tokens * self.flops_per_token:.2e} FLOPs{'' if epochs is None else f', {epochs:.2f} epochs'} ({used})"
        )

    def _epochs(self, steps: int) -> float | None:
        return steps * self.batch.rows_per_step / self.train_rows if self.train_rows else None


def make_plan(
    architecture: Mapping[str, Any],
    *,
    depth: int | None,
    optimizer: str,
    max_length: int,
    per_device_batch_size: int,
    num_processes: int,
    grad_accum_steps: int = 1,
    total_batch_size: int | None = None,
    max_steps: int | None = None,
    target_flops: float | None = None,
    target_param_data_ratio: float | None = None,
    num_train_epochs: float | None = None,
    train_rows: int | None = None,
    rates: Mapping[str, float | None] | None = None,
    rate_scale: float | None = None,
    earlier_rates: Mapping[str, float] | None = None,
    galore: GaLore | None = None,
) -> Plan:
    """Derive batch, length and rates.

    With `depth` set, a length and a batch that nobody gave come from the dial: the batch from the tokens that
    `target_flops` or the ratio asks for, and the same on any number of processes. A pass then has at most
    `per_device_batch_size` rows, so that passes make it up. `rates` that are null are those of the stage before
    (`earlier_rates`, null for a new model) or else the usual ones, times `rate_scale`.

    Raises UserError for a batch that cannot be divided, where no length is set at all, and where GaLore is given no
    linear of the model.
    """
    if galore is not None and not any(galore.covers(name) for name, _, _ in linears(architecture)):
        raise UserError(f"optim_target_modules: the model has no linear by {shown(galore.targets)}.")
    no_length = not (max_steps and max_steps > 0 or target_flops or target_param_data_ratio or num_train_epochs)
    if no_length:
        if depth is None:
            raise UserError(
                "no length is set: give max_steps, target_flops, target_param_data_ratio or num_train_epochs."
            )
        target_param_data_ratio = DEPTH_SERIES_RATIO
    fitting = per_device_batch_size
    if depth is not None and total_batch_size is None and grad_accum_steps == 1:
        horizon = (target_param_data_ratio or DEPTH_SERIES_RATIO) * scaling_parameters(architecture)
        if target_flops and not (max_steps and max_steps > 0):
            horizon = target_flops / flops_per_token(architecture, max_length)
        rows = default_batch_rows(horizon, max_length)
        total_batch_size, fitting = rows * max_length, rows_that_divide(rows, per_device_batch_size, num_processes)
    batch = plan_batch(total_batch_size, max_length, fitting, num_processes, grad_accum_steps)
    lengths = steps_by_method(
        architecture,
        batch,
        max_steps=max_steps,
        target_flops=target_flops,
        target_param_data_ratio=target_param_data_ratio,
        num_train_epochs=num_train_epochs,
        train_rows=train_rows,
    )
    usual = default_rates(architecture, optimizer == "muon")
    usual |= {name: rate for name, rate in (earlier_rates or {}).items() if name in usual}
    if optimizer == "muon":
        usual["learning_rate"] = _muon_rate(batch, lengths[0], earlier_rates)
    return Plan(
        architecture,
        count_parameters(architecture),
        flops_per_token(architecture, max_length),
        batch,
        lengths,
        train_rows,
        optimizer,
        fill_rates(usual, rates or {}, rate_scale),
        per_device_batch_size,
        galore,
    )


def _muon_rate(batch: BatchPlan, length: Length, earlier_rates: Mapping[str, float] | None) -> float:
    """Of a new model by its batch and length; a trained one's weights take that of the stage before, or the usual one,
    and never more than a new model would."""
    by_length = muon_rate(batch.tokens_per_step, length.steps) if length.steps else None
    if earlier_rates is None:
        return by_length or MUON_RATE
    earlier = earlier_rates.get("learning_rate", MUON_RATE)
    return earlier if by_length is None else min(earlier, by_length)
