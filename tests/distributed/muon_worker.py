"""One of several gloo processes that take Muon+AdamW steps on the same parameters as one process alone does, and print
the largest difference of every kind as JSON: `torchrun --nproc_per_node 3 muon_worker.py`."""

import json

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from hfgpt.errors import UserError
from hfgpt.training.distributed_muon import OwnMatrices, ReplicatedMatrices, ShardedMatrices
from hfgpt.training.muon import orthogonalize
from hfgpt.training.optimizer import MuonAdamW

# Rows that three processes cannot share evenly, fewer rows than processes, and counts of matrices below and above it.
MATRICES = [(7, 5)] * 4 + [(2, 9)] + [(8, 3)] * 5 + [(3, 8)] * 2 + [(1, 4)] * 3
VECTORS = [(2,), (7,), (11, 3)]
STEPS = 4


def random_tensors(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in MATRICES + VECTORS]


def optimizer_of(parameters: list[torch.Tensor]) -> MuonAdamW:
    count = len(MATRICES)
    return MuonAdamW(
        [
            {"params": parameters[:count], "kind": "muon", "lr": 0.1, "weight_decay": 0.1},
            {"params": parameters[count:], "kind": "adamw", "lr": 0.1, "weight_decay": 0.1},
        ]
    )


def train(parameters: list[torch.Tensor], distribute=lambda tensor: tensor) -> list[torch.Tensor]:
    """The parameters, whole, after some steps with the same gradients as everybody else's."""
    optimizer = optimizer_of(parameters)
    for step in range(STEPS):
        for parameter, gradient in zip(parameters, random_tensors(seed=1 + step), strict=True):
            parameter.grad = distribute(gradient)
        optimizer.step()
    return [p.full_tensor() if isinstance(p, DTensor) else p for p in parameters]


def largest_difference(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(first, second, strict=True))


def alone(parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same steps written out for one process, without any sharing."""
    count, momenta = len(MATRICES), {}
    matrices, others = parameters[:count], parameters[count:]
    adamw = torch.optim.AdamW(others, lr=0.1, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(STEPS):
        gradients = random_tensors(seed=1 + step)
        momentum = 0.85 + 0.1 * step / 300
        for i, (matrix, gradient) in enumerate(zip(matrices, gradients[:count], strict=True)):
            momenta[i] = momenta.get(i, torch.zeros_like(matrix)).lerp(gradient, 1 - momentum)
            update = orthogonalize(gradient.lerp(momenta[i], momentum)[None])[0]
            matrix.mul_(1 - 0.1 * 0.1).sub_(0.1 * max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5 * update)
        for parameter, gradient in zip(others, gradients[count:], strict=True):
            parameter.grad = gradient
        adamw.step()
    return parameters


def refusal(mesh, placements) -> str:
    parameter = distribute_tensor(torch.randn(6, 6), mesh, placements)
    parameter.grad = distribute_tensor(torch.randn(6, 6), mesh, placements)
    try:
        MuonAdamW([{"params": [parameter], "kind": "muon"}]).step()
    except UserError as error:
        return str(error)
    return "no error"


def main() -> None:
    dist.init_process_group("gloo")
    world, rank = dist.get_world_size(), dist.get_rank()
    mesh = init_device_mesh("cpu", (world,))

    def shard(tensor: torch.Tensor) -> DTensor:
        return distribute_tensor(tensor, mesh, [Shard(0)])

    expected = alone(random_tensors(seed=0))
    replicated = train(random_tensors(seed=0))
    sharded = train([shard(tensor) for tensor in random_tensors(seed=0)], shard)

    rank_zero = [tensor.clone() for tensor in replicated]
    for tensor in rank_zero:
        dist.broadcast(tensor, src=0)
    matrices = random_tensors(seed=0)[:4]  # four of one shape
    owned = ShardedMatrices([shard(m).to_local() for m in matrices], matrices[0].shape, dist.group.WORLD).owned
    at_work = torch.tensor(len(ReplicatedMatrices(matrices, dist.group.WORLD).mine))
    dist.all_reduce(at_work)
    result = {
        "replicated": largest_difference(replicated, expected),
        "sharded": largest_difference(sharded, expected),
        "between_replicas": largest_difference(replicated, rank_zero),
        "owned": owned,
        "at_work": at_work.item(),
        "whole_stack": len(OwnMatrices(matrices).stack),
        "columns": refusal(mesh, [Shard(1)]),
        "copies": refusal(mesh, [Replicate()]),
        "grid": refusal(init_device_mesh("cpu", (world, 1)), [Replicate(), Shard(0)]),
    }
    if rank == 0:
        print(json.dumps(result))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
