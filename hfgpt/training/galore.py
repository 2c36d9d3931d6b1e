"""What GaLore (arXiv:2403.03507, the package galore-torch) keeps: moments of a low rank for the linears it is given.
Plain arithmetic on the architecture, no torch."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hfgpt.errors import UserError
from hfgpt.training.budget import SMEAR_GATE_CHANNELS, VALUE_GATE_CHANNELS, block_linears, has_value_embedding

ALL_LINEAR = "all-linear"
DEFAULT_RANK = 128  # HF's, where `optim_args` names none


@dataclass(frozen=True)
class GaLore:
    """Rank and targets of `optim: galore_adamw`, as `optim_args` and `optim_target_modules` of a recipe say them."""

    rank: int
    targets: str | tuple[str, ...]

    def covers(self, module: str) -> bool:
        """Whether HF's Trainer gives this linear to GaLore."""
        if isinstance(self.targets, str):
            return is_all_linear(self.targets) or bool(re.fullmatch(self.targets, module))
        return any(target in module or re.fullmatch(target, module) for target in self.targets)

    def numbers_saved(self, architecture: Mapping[str, Any]) -> int:
        """Numbers of optimizer state that it keeps less than AdamW, which has two for every weight.

        A matrix of m x n, m the larger, has two moments of m x rank, and n x n singular vectors, of which it projects
        by the first and holds all. A small one may take more than before.
        """
        saved = 0
        for name, fan_in, fan_out in linears(architecture):
            if self.covers(name):
                larger, smaller = max(fan_in, fan_out), min(fan_in, fan_out)
                saved += 2 * fan_in * fan_out - 2 * min(self.rank, smaller) * larger - smaller**2
        return saved

    def step_numbers(self, architecture: Mapping[str, Any]) -> int:
        """The most numbers that one matrix needs while it is updated, when its projection is made anew: the factors of
        its singular value decomposition and the solver's work (LAPACK's gesdd), beside its gradient's copy."""
        sizes = [(max(i, o), min(i, o)) for name, i, o in linears(architecture) if self.covers(name)]
        return max((2 * larger * smaller + 5 * smaller**2 for larger, smaller in sizes), default=0)


def is_all_linear(targets: str | Sequence[str] | None) -> bool:
    """Whether they are HF's word for every linear, alone or as a recipe reads it, in a list."""
    word = targets if isinstance(targets, str) else targets[0] if targets and len(targets) == 1 else ""
    return word.replace("_", "-") == ALL_LINEAR


def galore_of(optim: str, optim_args: str | None, targets: str | Sequence[str] | None) -> GaLore | None:
    """What a recipe's keys ask for; None where it is not GaLore, or a kind whose state is not counted here."""
    if optim != "galore_adamw" or targets is None:
        return None
    options = dict(option.split("=", 1) for option in (optim_args or "").replace(" ", "").split(",") if "=" in option)
    rank = options.get("rank", str(DEFAULT_RANK))
    if is_all_linear(targets):
        targets = ALL_LINEAR
    if options.get("proj_type", "std") != "std" or not rank.isdecimal():
        return None
    for pattern in [targets] if isinstance(targets, str) else targets:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"optim_target_modules: {pattern} is no pattern ({error}).") from None
    return GaLore(int(rank), targets if isinstance(targets, str) else tuple(targets))


def linears(architecture: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """(name, fan in, fan out) of every linear of `GPTForCausalLM`, as its modules are named."""
    a = architecture
    names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    names += ["mlp.up_proj", "mlp.down_proj", "mlp.gate_proj"]
    for layer in range(a["num_hidden_layers"]):
        for name, (fan_in, fan_out, _) in zip(names, block_linears(a), strict=False):
            whole = f"model.layers.{layer}.{name}"
            if a["linear_type"] == "kan":
                yield f"{whole}.base", fan_in, fan_out
                yield f"{whole}.spline", fan_in * a["kan_grid_size"], fan_out
            else:
                yield whole, fan_in, fan_out
        if has_value_embedding(a, layer):
            channels = min(VALUE_GATE_CHANNELS, a["hidden_size"])
            yield f"model.layers.{layer}.self_attn.value_gate", channels, a["num_key_value_heads"]
    if a["smear"]:
        yield "model.smear.gate", min(SMEAR_GATE_CHANNELS, a["hidden_size"]), 1
    if not a["tie_word_embeddings"]:  # a tied one trains under the embedding's name
        yield "lm_head", a["hidden_size"], a["vocab_size"]
