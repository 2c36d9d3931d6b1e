"""Orthogonalising matrices that several processes hold, each matrix in one process only: its owner.

Same-shaped matrices travel together. Owners have contiguous shares of them, ceil(count / processes) each, so that the
last may have fewer or none. Every process must make the same calls in the same order.
"""

import warnings
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from hfgpt.errors import UserError
from hfgpt.training.muon import compute_dtype, orthogonalize

# Its successor all_gather_single is younger than the oldest torch that we support.
warnings.filterwarnings("ignore", message=r".*all_gather_into_tensor` is deprecated", category=FutureWarning)


class Orthogonalization(Protocol):
    """Matrices of one shape on their way: made from what this process holds of each, in the parameters' order.

    Transfers run in the background, so that `orthogonalize` of one shape hides those of another.
    """

    def orthogonalize(self) -> None:
        """Orthogonalise the matrices that this process owns, and send them on."""

    def collect(self) -> list[Tensor]:
        """What this process holds of each orthogonalised matrix, in `compute_dtype`."""


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: itself, or the shard of a DTensor, as a view."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def begin_orthogonalization(parameters: Sequence[Tensor], held: list[Tensor]) -> Orthogonalization:
    """Begin with same-shaped `parameters`, held alike, whose updates (their local parts) are `held`.

    Shards of FSDP2 go to their owners; plain tensors are DDP's replicas wherever torch.distributed runs. Raises
    UserError for tensors that are split in any other way.
    """
    first = parameters[0]
    if isinstance(first, DTensor):
        if first.device_mesh.ndim != 1 or first.placements != (Shard(0),):
            split = f"{first.placements} on a mesh of {first.device_mesh.ndim} dimensions"
            raise UserError(
                f"muon trains whole matrices or rows sharded over one mesh dimension (FSDP2), not {split}: launch "
                "with accelerate_configs/fsdp2.yaml, or set optim."
            )
        return ShardedMatrices(held, first.shape, first.device_mesh.get_group())
    everyone = dist.group.WORLD if dist.is_available() else None
    if everyone is not None and everyone.size() > 1:
        return ReplicatedMatrices(held, everyone)
    return OwnMatrices(held)


class OwnMatrices:
    """One process holds and owns every matrix."""

    def __init__(self, matrices: list[Tensor]):
        self.stack = _stack(matrices)

    def orthogonalize(self) -> None:
        self.stack = orthogonalize(self.stack)

    def collect(self) -> list[Tensor]:
        return list(self.stack.unbind())


class ReplicatedMatrices:
    """Every process holds every matrix (DDP): each orthogonalises its share, and one all-gather hands them round."""

    def __init__(self, matrices: list[Tensor], group: dist.ProcessGroup):
        self.group, self.count = group, len(matrices)
        share = _share(self.count, group)
        mine = matrices[group.rank() * share : (group.rank() + 1) * share]
        blank = [torch.zeros_like(matrices[0])] * (share - len(mine))  # an all-gather wants as many from each
        self.mine = _stack([*mine, *blank])

    def orthogonalize(self) -> None:
        self.mine = orthogonalize(self.mine).contiguous()
        self.gathered = self.mine.new_empty((self.group.size() * self.mine.shape[0], *self.mine.shape[1:]))
        self.work = dist.all_gather_into_tensor(self.gathered, self.mine, group=self.group, async_op=True)

    def collect(self) -> list[Tensor]:
        self.work.wait()
        return list(self.gathered[: self.count].unbind())


class ShardedMatrices:
    """Every process holds some rows of every matrix (FSDP2): an all-to-all brings each matrix to its owner, another
    brings its rows back. Process p holds rows as torch.chunk cuts them: the last ones may hold fewer or none."""

    def __init__(self, shards: list[Tensor], shape: torch.Size, group: dist.ProcessGroup):
        self.group, world, count = group, group.size(), len(shards)
        rows, self.columns = shape
        share, chunk = _share(count, group), -(-rows // world)
        self.owned = [_clipped(share, count - owner * share) for owner in range(world)]  # matrices of each process
        self.rows = [_clipped(chunk, rows - process * chunk) for process in range(world)]  # rows of each process
        self.held_rows = self.rows[group.rank()]
        # Contiguous shares: the stack in its order is what goes to owner 0, then to owner 1, and so on.
        held = _stack(shards).flatten()
        self.received = held.new_empty(self.owned[group.rank()] * rows * self.columns)
        self.work = dist.all_to_all_single(
            self.received, held, self._sizes_at_owner(), self._sizes_held(), group=group, async_op=True
        )

    def orthogonalize(self) -> None:
        self.work.wait()
        mine = self.owned[self.group.rank()]
        parts = self.received.split(self._sizes_at_owner())
        if mine:
            whole = torch.cat(
                [part.view(mine, rows, self.columns) for part, rows in zip(parts, self.rows, strict=True)], dim=1
            )
            parts = orthogonalize(whole).split(self.rows, dim=1)
        sent = torch.cat([part.flatten() for part in parts])
        self.returned = sent.new_empty(sum(self._sizes_held()))
        self.work = dist.all_to_all_single(
            self.returned, sent, self._sizes_held(), self._sizes_at_owner(), group=self.group, async_op=True
        )

    def collect(self) -> list[Tensor]:
        self.work.wait()
        return list(self.returned.view(sum(self.owned), self.held_rows, self.columns).unbind())

    def _sizes_held(self) -> list[int]:
        """Elements of this process's rows that belong to the matrices of each owner."""
        return [owned * self.held_rows * self.columns for owned in self.owned]

    def _sizes_at_owner(self) -> list[int]:
        """Elements of this process's own matrices that each process holds."""
        return [self.owned[self.group.rank()] * rows * self.columns for rows in self.rows]


def _stack(matrices: list[Tensor]) -> Tensor:
    return torch.stack(matrices).to(compute_dtype(matrices[0].device))


def _share(count: int, group: dist.ProcessGroup) -> int:
    """Matrices that each process owns, at most."""
    return -(-count // group.size())


def _clipped(share: int, left: int) -> int:
    return max(0, min(share, left))
