"""Memory of one training process in bytes, before anything runs: plain arithmetic on the architecture, no torch.

Adds weights, gradients, optimizer state and activations (activations.py) at the moments of a step when most of them
stand at once. Tests hold the sum against measured peaks.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from hfgpt.package_versions import fsdp2_lets_head_be_skipped
from hfgpt.training.activations import (
    BFLOAT16,
    FLOAT32,
    AttentionKernel,
    Pass,
    embedding_bytes,
    head_bytes,
    layer_bytes,
    layers_bytes,
)
from hfgpt.training.budget import block_linears, count_parameters, linear_parameters
from hfgpt.training.galore import GaLore

# Numbers of logits in a chunk of the loss, as in hfgpt/model/linear_cross_entropy.py, which imports torch.
CPU_CHUNK_LOGITS = 2**24
GPU_CHUNK_LOGITS = 2**28

# Numbers that HF's optimizers keep for each parameter, by their names there.
MOMENTS = {"adamw_torch": 2, "adamw_torch_fused": 2, "adagrad": 1}

Strategy = Literal["ddp", "fsdp2"]


@dataclass(frozen=True)
class Process:
    """How one process trains: what decides its memory beside the model's shape.

    `accumulates`: gradients of earlier passes stand while the next one runs. `whole_logits`: the loss takes the logits
    of all tokens at once, else a chunk at a time (hfgpt/model/linear_cross_entropy.py); FSDP2 of a torch before 2.13
    must take them at once.
    """

    rows: int
    max_length: int
    optimizer: str = "muon"
    galore: GaLore | None = None
    num_processes: int = 1
    strategy: Strategy = "ddp"
    on_gpu: bool = True
    bf16: bool = True
    fp8: bool = False
    activation_checkpointing: bool = False
    accumulates: bool = False
    attention: AttentionKernel = "flash"
    packed: bool = True
    torch_compile: bool = False
    whole_logits: bool = False

    @property
    def shards(self) -> int:
        """Into how many parts FSDP2 cuts weights, gradients and optimizer state."""
        return self.num_processes if self.strategy == "fsdp2" else 1

    def one_pass(self) -> Pass:
        return Pass(
            self.rows,
            self.max_length,
            bf16=self.bf16,
            on_gpu=self.on_gpu,
            attention=self.attention,
            packed=self.packed,
            activation_checkpointing=self.activation_checkpointing,
            torch_compile=self.torch_compile,
        )


@dataclass(frozen=True)
class Memory:
    """Bytes on one process, by what they hold and at each moment of a step; `peak` is the fullest moment.

    The parts do not all stand at once: gradients grow while activations and logits go.
    """

    weights: int
    gradients: int
    optimizer: int
    buffers: int  # copies of weights and gradients: bfloat16 casts, what FSDP2 gathers, DDP's buckets
    activations: int
    logits: int
    moments: Mapping[str, int]

    @property
    def peak(self) -> int:
        return max(self.moments.values())

    @property
    def peak_moment(self) -> str:
        return max(self.moments, key=lambda name: self.moments[name])


def training_memory(architecture: Mapping[str, Any], process: Process) -> Memory:
    """Memory of training this architecture (the fields of GPTConfig) in this way."""
    a, p, work = architecture, process, process.one_pass()
    count, shards = count_parameters(a), process.shards
    weights, gradients, optimizer = (size // shards for size in state_bytes(a, p.optimizer, p.galore).values())
    buckets, copies = _copies(a, p)
    layers = layers_bytes(a, work)
    activations = embedding_bytes(a, work) + layers + head_bytes(a, work)
    logits = _logits(a, p)
    state = weights + optimizer + buckets
    earlier = gradients if p.accumulates else 0
    # The head's gradient is made while every layer's activations still stand, the embeddings' when all are gone.
    head_gradient = 0 if p.accumulates else FLOAT32 * a["vocab_size"] * a["hidden_size"] // shards
    recomputed = 0
    if p.activation_checkpointing:
        recomputed = max(layer_bytes(a, work, idx) for idx in range(a["num_hidden_layers"]))
    moments = {
        "loss": state + copies + earlier + activations + logits,
        "last layer's backward": state
        + copies
        + max(earlier, head_gradient)
        + (activations - head_bytes(a, work))
        + recomputed
        + _layer_backward(a, work),
        "end of backward": state + gradients + (FLOAT32 * count.embedding if p.accumulates else 0),
        "optimizer step": state + gradients + _step_bytes(a, p),
    }
    return Memory(weights, gradients, optimizer, buckets + copies, activations, logits, moments)


def is_counted(optimizer: str, galore: GaLore | None = None) -> bool:
    """Whether `state_bytes` knows what this optimizer keeps."""
    return galore is not None or optimizer == "muon" or optimizer in MOMENTS


def state_bytes(architecture: Mapping[str, Any], optimizer: str, galore: GaLore | None = None) -> dict[str, int]:
    """Bytes of float32 weights, gradients and optimizer state on one process without sharding.

    AdamW keeps two moments a parameter, Muon one a matrix entry, GaLore those of a low rank; optimizers that are not
    known are counted as AdamW.
    """
    count = count_parameters(architecture)
    numbers = MOMENTS.get(optimizer, 2) * count.total
    if optimizer == "muon":
        numbers -= count.block_matrices
    if galore is not None:
        numbers -= galore.numbers_saved(architecture)
    return {"weights": FLOAT32 * count.total, "gradients": FLOAT32 * count.total, "optimizer": FLOAT32 * numbers}


def largest_batch(architecture: Mapping[str, Any], process: Process, memory_bytes: float) -> int:
    """The most rows of one pass whose peak fits into `memory_bytes`; 0 where not even one does."""

    def fits(rows: int) -> bool:
        return training_memory(architecture, replace(process, rows=rows)).peak <= memory_bytes

    if not fits(1):
        return 0
    most = 1
    while fits(2 * most):
        most *= 2
    step = most // 2
    while step:
        if fits(most + step):
            most += step
        step //= 2
    return most


def chunk_tokens(architecture: Mapping[str, Any], on_gpu: bool) -> int:
    """Tokens whose logits stand at once when the loss is computed in chunks."""
    vocab, width = architecture["vocab_size"], architecture["hidden_size"]
    return max(1, GPU_CHUNK_LOGITS // vocab if on_gpu else min(max(128, width), CPU_CHUNK_LOGITS // vocab))


def _logits(a: Mapping[str, Any], p: Process) -> int:
    """The most that the loss needs beside the activations, in bytes.

    Whole logits leave log-softmax and, capped, tanh, and going backward add two more of their size. In chunks, a
    chunk's logits and their gradient stand beside the finished gradients of the head and of its input, which then
    are scaled into new ones.
    """
    tokens, width, vocab = p.rows * p.max_length, a["hidden_size"], a["vocab_size"]
    compute = BFLOAT16 if p.bf16 else FLOAT32
    if p.whole_logits or (p.shards > 1 and not fsdp2_lets_head_be_skipped()):
        capped = a["final_logit_softcapping"] is not None
        return FLOAT32 * tokens * vocab * (4 if capped else 3)
    made = compute * tokens * width + FLOAT32 * vocab * width
    chunk = min(tokens, chunk_tokens(a, p.on_gpu)) * vocab
    casts = BFLOAT16 * (2 * vocab * width + chunk) if p.bf16 else 0
    if not p.on_gpu and not p.bf16:  # oneDNN's product for the head's gradient, before it is added
        casts = FLOAT32 * vocab * width
    return made + max(made, casts + 2 * FLOAT32 * chunk)


def _layer_backward(a: Mapping[str, Any], work: Pass) -> int:
    """What stands beside the kept activations while a layer's MLP goes backward: gradients of stream and MLP."""
    inner, stream = a["intermediate_size"], FLOAT32 * a["hidden_size"]
    compute = FLOAT32 if a["mlp_type"] == "relu2" and work.on_gpu else work.compute_bytes
    copies = {"gelu": 1, "relu2": 3, "swiglu": 2}[a["mlp_type"]]
    return work.tokens * (stream + copies * compute * inner)


def _copies(a: Mapping[str, Any], p: Process) -> tuple[int, int]:
    """(DDP's buckets, which stand always; copies of weights and gradients that stand during passes only)."""
    count = count_parameters(a)
    head = a["vocab_size"] * a["hidden_size"]
    compute = BFLOAT16 if p.bf16 else FLOAT32
    if p.shards == 1:
        buckets = FLOAT32 * count.total if p.num_processes > 1 else 0
        # Autocast's bfloat16 weights; under fp8 only the head's, the blocks' are cast anew in each direction.
        return buckets, BFLOAT16 * (head if p.fp8 else count.block_matrices + head) if p.bf16 else 0
    # FSDP2 gathers two layers, one in use and one on its way, and sums one layer's gradients in float32. What lies
    # outside the layers stays gathered, with its gradients, through both passes.
    layer = count.block_matrices // a["num_hidden_layers"]
    if a["value_embeddings"]:
        layer += a["vocab_size"] * a["num_key_value_heads"] * a["head_dim"]
    outside = count.embedding + count.position_embedding + count.bigram_embedding + count.head
    return 0, layer * (3 * compute + FLOAT32) + outside * 2 * compute


def _step_bytes(a: Mapping[str, Any], p: Process) -> int:
    """What the optimizer's step needs for itself: a GPU's AdamW that is not fused its denominators, Muon its stacks of
    every shape and what Polar Express adds to the largest (hfgpt/training/muon.py)."""
    count = count_parameters(a)
    if p.galore is not None:  # one parameter after the other: what it divides by, and the quotient
        tables = ("embedding", "position_embedding", "bigram_embedding", "head")
        largest = max(getattr(count, table) for table in tables)
        return FLOAT32 * max(2 * largest, p.galore.step_numbers(a))
    if p.optimizer != "muon":
        return FLOAT32 * count.total // p.shards if p.on_gpu and "fused" not in p.optimizer else 0
    stacks: Counter[tuple[int, int]] = Counter()  # numbers in the matrices of each shape
    for fan_in, fan_out, _ in block_linears(a):
        stacks[fan_in, fan_out] += a["num_hidden_layers"] * linear_parameters(a, fan_in, fan_out)
    iteration = 0.0
    for (fan_in, fan_out), numbers in stacks.items():
        gram = min(fan_in, fan_out) / max(fan_in, fan_out)
        iteration = max(iteration, numbers * max(4 + 2 * gram, 2 + 4 * gram))
    compute = BFLOAT16 if p.on_gpu else FLOAT32
    owned = (count.block_matrices + iteration) / p.num_processes
    handed_round = 0.0
    if p.num_processes > 1:  # DDP's replicas receive every matrix, FSDP2's shards their own rows
        handed_round = count.block_matrices / p.shards
    return round(compute * (owned + handed_round))
