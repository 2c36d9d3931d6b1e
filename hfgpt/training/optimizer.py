"""Muon for the matrices of the blocks and AdamW for everything else, as one torch.optim.Optimizer.

Never caches parameters outside `param_groups`, and creates its state lazily, so wrappers may swap parameters.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from hfgpt.errors import UserError
from hfgpt.training.distributed_muon import begin_orthogonalization, local_part
from hfgpt.training.rates import BIGRAM_SHARE_OF_RATE

# Muon's momentum rises to its value over the first steps, as in Keller Jordan's and nanochat's runs: while the loss
# falls quickly, old gradients mislead.
FIRST_MOMENTUM = 0.85
MOMENTUM_WARMUP_STEPS = 300
# Embeddings with a group of their own, by a part of their name.
EMBEDDING_GROUPS = {"value_embed.": "value_embeddings", "embed_bigrams.": "bigrams"}


class MuonAdamW(torch.optim.Optimizer):
    """One optimizer whose groups say by `kind` ("muon" or "adamw") how they are updated.

    Muon groups: `lr`, `momentum` (Nesterov, reached after 300 steps), `weight_decay` (decoupled), 2-D parameters;
    matrices of one shape are stacked and orthogonalised together, and the update is scaled by
    sqrt(max(1, rows / columns)).
    AdamW groups: `lr`, `betas`, `eps`, `weight_decay`.

    Under DDP and FSDP2 each matrix is orthogonalised by one process (hfgpt/training/distributed_muon.py), and all
    processes must step together.
    """

    # () float32 on the parameters' device: 1 makes the next steps change nothing, as torch's fused optimizers know it.
    # A decision of the device needs no wait of the host. `steps` of a group counts on, as the rates' schedule does.
    found_inf: Tensor | None = None

    def __init__(self, param_groups: Iterable[dict[str, Any]]):
        defaults = {
            "kind": "adamw",
            "lr": 1e-3,
            "betas": (0.9, 0.95),
            "eps": 1e-8,
            "weight_decay": 0.0,
            "momentum": 0.95,
            "steps": 0,  # taken so far
        }
        super().__init__(param_groups, defaults)
        for group in self.param_groups:
            if group["kind"] == "muon" and any(p.ndim != 2 for p in group["params"]):
                raise ValueError("Muon updates 2-D parameters only; put the others into an adamw group.")

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["kind"] == "muon":
                self._muon(group, parameters)
            elif parameters:
                self._adamw(group, parameters)
            group["steps"] += 1
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        saved, groups = len(state_dict["param_groups"]), len(self.param_groups)
        if saved != groups:
            raise UserError(
                f"the checkpoint's optimizer has {saved} parameter groups and this version of hfgpt makes {groups}: "
                "go on with the version that began the run, or start anew with --overwrite."
            )
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            if "step" in state:  # torch leaves it where the checkpoint was read to
                state["step"] = state["step"].to(parameter.device)

    def _muon(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Momentum on what this process holds, whole matrices orthogonalised by their owners, the update applied to
        what this process holds. All shapes are on their way before the first is waited for."""
        stacks: dict[tuple[Any, ...], list[Tensor]] = {}
        for parameter in parameters:
            stacks.setdefault(_how_held(parameter), []).append(parameter)
        under_way = [(same, begin_orthogonalization(same, self._directions(group, same))) for same in stacks.values()]
        for _, orthogonalization in under_way:
            orthogonalization.orthogonalize()
        for same, orthogonalization in under_way:
            self._apply(group, same, orthogonalization.collect())

    def _directions(self, group: dict[str, Any], parameters: list[Tensor]) -> list[Tensor]:
        """Update the momenta, and return what is to be orthogonalised: this process's part of each matrix."""
        warm = min(1.0, group["steps"] / MOMENTUM_WARMUP_STEPS)
        momentum = warm * group["momentum"] + (1 - warm) * min(FIRST_MOMENTUM, group["momentum"])
        gradients = _local_gradients(parameters)
        buffers = [self._state(p, "momentum_buffer") for p in parameters]
        if self.found_inf is not None:  # a buffer that moves towards itself stays where it is
            for gradient, buffer in zip(gradients, buffers, strict=True):
                torch.where(self.found_inf.bool(), buffer, gradient, out=gradient)
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        return list(torch._foreach_lerp(gradients, buffers, momentum))

    def _apply(self, group: dict[str, Any], parameters: list[Tensor], updates: list[Tensor]) -> None:
        """Decay this process's parts of same-shaped matrices, and add the orthogonalised updates to them."""
        rows, columns = parameters[0].shape
        held = [local_part(p) for p in parameters]
        scale, kept = max(1.0, rows / columns) ** 0.5, 1 - group["lr"] * group["weight_decay"]
        same_dtype = [update.to(part.dtype) for update, part in zip(updates, held, strict=True)]
        if self.found_inf is not None:
            kept = torch.where(self.found_inf.bool(), 1.0, kept)
            torch._foreach_mul_(same_dtype, 1 - self.found_inf)
        if group["weight_decay"]:
            torch._foreach_mul_(held, kept)
        torch._foreach_add_(held, same_dtype, alpha=-group["lr"] * scale)

    def _adamw(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """torch's fused AdamW: one pass over memory, where a pass each operation costs several times as much."""
        steps = [self._state(p, "step", scalar=True) for p in parameters]
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            [local_part(p) for p in parameters],
            _local_gradients(parameters),
            [self._state(p, "exp_avg") for p in parameters],
            [self._state(p, "exp_avg_sq") for p in parameters],
            [],
            steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            found_inf=self.found_inf,
        )
        if self.found_inf is not None:
            torch._foreach_sub_(steps, [self.found_inf] * len(steps))

    def _state(self, parameter: Tensor, name: str, scalar: bool = False) -> Tensor:
        """This process's part of a state tensor. What is kept is sharded as its parameter is, so that checkpoints can
        put it together."""
        state = self.state[parameter]
        if name not in state:
            if scalar:
                state[name] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            else:
                state[name] = torch.zeros_like(parameter)
        return local_part(state[name])


def _local_gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [local_part(p.grad) for p in parameters if p.grad is not None]


def _how_held(parameter: Tensor) -> tuple[Any, ...]:
    """Equal for parameters that can be stacked: of one shape, dtype and device, and split alike over processes."""
    split = (parameter.device_mesh, parameter.placements) if isinstance(parameter, DTensor) else None
    return parameter.shape, parameter.dtype, parameter.device, split


def parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    embedding_learning_rate: float,
    head_learning_rate: float,
    scalar_learning_rate: float,
    value_embedding_learning_rate: float | None = None,
    weight_decay: float = 0.0,
    bigram_weight_decay: float = 0.0,
    momentum: float = 0.95,
    betas: tuple[float, float] = (0.8, 0.99),
    eps: float = 1e-10,
) -> list[dict[str, Any]]:
    """Groups for MuonAdamW: block matrices to Muon; embeddings, value embeddings (None: at the embeddings' rate),
    head, vectors and scalars to AdamW at their own rates, the table of token pairs at half the embeddings' with a
    decay of its own. A matrix of one row is a vector.

    Every trainable parameter is in exactly one group; an embedding tied to the head trains as the head, for the
    embeddings' rate breaks it. The first beta and eps are nanochat's, the second beta and the pairs' rate are measured
    together (docs/ablations.md).
    """
    rates = {
        "matrices": learning_rate,
        "embeddings": embedding_learning_rate,
        "value_embeddings": (
            embedding_learning_rate if value_embedding_learning_rate is None else value_embedding_learning_rate
        ),
        "bigrams": BIGRAM_SHARE_OF_RATE * embedding_learning_rate,
        "head": head_learning_rate,
        "scalars": scalar_learning_rate,
    }
    members: dict[str, list[Tensor]] = {name: [] for name in rates}
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    heads = {id(getattr(m, "weight", None)) for name, m in model.named_modules() if name.endswith("lm_head")}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in heads or "lm_head" in name:
            members["head"].append(parameter)
        elif id(parameter) in embeddings:
            members[_embedding_group(name)].append(parameter)
        else:
            is_matrix = parameter.ndim == 2 and parameter.shape[0] > 1
            members["matrices" if is_matrix else "scalars"].append(parameter)
    groups: list[dict[str, Any]] = []
    for name, parameters in members.items():
        if name == "matrices":
            kind = {"kind": "muon", "momentum": momentum, "weight_decay": weight_decay}
        else:
            decay = bigram_weight_decay if name == "bigrams" else 0.0
            kind = {"kind": "adamw", "betas": betas, "eps": eps, "weight_decay": decay}
        if parameters:
            groups.append({"params": parameters, "name": name, "lr": rates[name], **kind})
    return groups


def _embedding_group(name: str) -> str:
    """The group of the embedding of this name."""
    groups = (group for part, group in EMBEDDING_GROUPS.items() if part in name)
    return next(groups, "embeddings")


class MuonAdamWFactory:
    """What Trainer's `optimizer_cls_and_kwargs` calls: `MuonAdamWFactory()(model, **rates)`."""

    def __call__(self, model: nn.Module, **rates: Any) -> MuonAdamW:
        return MuonAdamW(parameter_groups(model, **rates))
