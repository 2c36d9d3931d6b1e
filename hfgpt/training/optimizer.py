"""Muon for the matrices of the blocks and AdamW for everything else, as one torch.optim.Optimizer.

Never caches parameters outside `param_groups`, and creates its state lazily, so wrappers may swap parameters.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Quintic Newton-Schulz coefficients of Keller Jordan's Muon (kellerjordan.github.io/posts/muon): five steps bring
# every singular value of a matrix of norm <= 1 into about [0.7, 1.2], which is all that the update needs.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix of each of (batch, rows, columns), approximately, by Newton-Schulz.

    Runs in bfloat16 on a GPU, where it is exact enough and fast, and in float32 elsewhere.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.size(-2) > x.size(-1)
    if tall:  # the products below are then over the smaller side
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class MuonAdamW(torch.optim.Optimizer):
    """One optimizer whose groups say by `kind` ("muon" or "adamw") how they are updated.

    Muon groups: `lr`, `momentum` (Nesterov), `weight_decay` (decoupled), 2-D parameters; matrices of one shape are
    stacked and orthogonalised together, and the update is scaled by sqrt(max(1, rows / columns)).
    AdamW groups: `lr`, `betas`, `eps`, `weight_decay`.
    """

    def __init__(self, param_groups: Iterable[dict[str, Any]]):
        defaults = {
            "kind": "adamw",
            "lr": 1e-3,
            "betas": (0.9, 0.95),
            "eps": 1e-8,
            "weight_decay": 0.0,
            "momentum": 0.95,
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
        return loss

    def _muon(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for parameter in parameters:
            by_shape.setdefault(parameter.shape, []).append(parameter)
        for shape, same in by_shape.items():
            gradients = [p.grad for p in same if p.grad is not None]
            buffers = [self._state(p, "momentum_buffer") for p in same]
            torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
            updates = orthogonalize(torch.stack(torch._foreach_lerp(gradients, buffers, group["momentum"])))
            if group["weight_decay"]:
                torch._foreach_mul_(same, 1 - group["lr"] * group["weight_decay"])
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            torch._foreach_add_(same, list(updates.unbind()), alpha=-group["lr"] * scale)

    def _adamw(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        gradients = [p.grad for p in parameters if p.grad is not None]
        first = [self._state(p, "exp_avg") for p in parameters]
        second = [self._state(p, "exp_avg_sq") for p in parameters]
        steps = [self._state(p, "step", scalar=True) for p in parameters]
        torch._foreach_add_(steps, 1)
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        correction = [(1 - beta2 ** float(s)) ** 0.5 for s in steps]
        denominators = torch._foreach_sqrt(second)
        torch._foreach_div_(denominators, correction)
        torch._foreach_add_(denominators, group["eps"])
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        sizes = [-group["lr"] / (1 - beta1 ** float(s)) for s in steps]
        torch._foreach_addcdiv_(parameters, first, denominators, sizes)

    def _state(self, parameter: Tensor, name: str, scalar: bool = False) -> Tensor:
        state = self.state[parameter]
        if name not in state:
            # a step count lives on the CPU, so that reading it never waits for the GPU
            state[name] = torch.zeros((), dtype=torch.float32) if scalar else torch.zeros_like(parameter)
        return state[name]


def parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    embedding_learning_rate: float,
    head_learning_rate: float,
    scalar_learning_rate: float,
    weight_decay: float = 0.0,
    momentum: float = 0.95,
    betas: tuple[float, float] = (0.8, 0.95),
    eps: float = 1e-10,
) -> list[dict[str, Any]]:
    """Groups for MuonAdamW: block matrices to Muon; embeddings, head, vectors and scalars to AdamW at their own rates.

    Every trainable parameter is in exactly one group; a tied head counts as embedding. Betas and eps are nanochat's.
    """
    rates = {
        "matrices": learning_rate,
        "embeddings": embedding_learning_rate,
        "head": head_learning_rate,
        "scalars": scalar_learning_rate,
    }
    members: dict[str, list[Tensor]] = {name: [] for name in rates}
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in embeddings:
            members["embeddings"].append(parameter)
        elif "lm_head" in name:
            members["head"].append(parameter)
        else:
            members["matrices" if parameter.ndim == 2 else "scalars"].append(parameter)
    groups: list[dict[str, Any]] = []
    for name, parameters in members.items():
        if name == "matrices":
            kind = {"kind": "muon", "momentum": momentum, "weight_decay": weight_decay}
        else:
            kind = {"kind": "adamw", "betas": betas, "eps": eps, "weight_decay": 0.0}
        if parameters:
            groups.append({"params": parameters, "name": name, "lr": rates[name], **kind})
    return groups


class MuonAdamWFactory:
    """What Trainer's `optimizer_cls_and_kwargs` calls: `MuonAdamWFactory()(model, **rates)`."""

    def __call__(self, model: nn.Module, **rates: Any) -> MuonAdamW:
        return MuonAdamW(parameter_groups(model, **rates))
