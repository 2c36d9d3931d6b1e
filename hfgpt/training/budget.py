"""What a model and a run cost, in parameters, FLOPs, tokens and steps: plain arithmetic on the architecture, no torch.

`architecture` is the complete keyword dict that `hfgpt.model.architecture` makes (the fields of GPTConfig).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hfgpt.errors import UserError

# nanochat's measured compute-optimal batch: 2**19 tokens for a d12 model at its horizon, growing with the horizon's
# power 0.383 (nanochat scripts/base_train.py, January 2026, after arXiv:2505.13738).
REFERENCE_BATCH_TOKENS = 2**19
REFERENCE_HORIZON_PARAMETERS = 110_100_480  # block matrices and head of d12 with a vocabulary of 32,768
BATCH_GROWTH = 0.383
VALUE_GATE_CHANNELS = 12  # inputs of a value embedding's gate, as in modeling_gpt.py
SMEAR_GATE_CHANNELS = 24  # and of the smear's
DEPTH_SERIES_RATIO = 12.0  # tokens per (block matrices + head) parameter when a recipe sets only `depth` (nanochat)


@dataclass(frozen=True)
class ParameterCount:
    """Parameters by group. `block_matrices` are what Muon trains; a tied head counts 0 of its own."""

    embedding: int
    position_embedding: int
    bigram_embedding: int
    value_embeddings: int
    block_matrices: int
    head: int
    other: int  # norms, biases, scalars

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def count_parameters(architecture: Mapping[str, Any]) -> ParameterCount:
    """Parameters of `GPTForCausalLM` for this architecture, exactly, by group."""
    a = architecture
    hidden, layers, vocab = a["hidden_size"], a["num_hidden_layers"], a["vocab_size"]
    value_width = a["num_key_value_heads"] * a["head_dim"]
    matrices = other = 0
    for fan_in, fan_out, bias in block_linears(a):
        matrices += layers * linear_parameters(a, fan_in, fan_out)
        other += layers * fan_out * bias
    value_layers = value_embedding_layers(a)
    if value_layers:
        matrices += value_layers * a["num_key_value_heads"] * min(VALUE_GATE_CHANNELS, hidden)
    norm = hidden * (2 if a["norm_type"] == "layernorm" else 1) if a["norm_weight"] else 0
    norms = 2 * layers + 1 + bool(a["embedding_norm"])
    qk_norm = 2 * layers * a["head_dim"] if a["qk_norm"] and a["norm_weight"] else 0
    other += norms * norm + qk_norm + (2 * layers if a["residual_scalars"] else 0)
    other += (min(SMEAR_GATE_CHANNELS, hidden) + 1 if a["smear"] else 0) + bool(a["backout"])
    return ParameterCount(
        embedding=vocab * hidden,
        position_embedding=a["max_position_embeddings"] * hidden if a["position_embedding_type"] == "learned" else 0,
        bigram_embedding=a["bigram_vocab_size"] * hidden,
        value_embeddings=value_layers * vocab * value_width,
        block_matrices=matrices,
        head=0 if a["tie_word_embeddings"] else vocab * hidden,
        other=other,
    )


def block_linears(architecture: Mapping[str, Any]) -> list[tuple[int, int, bool]]:
    """(fan in, fan out, has a bias) of every linear of one block."""
    a = architecture
    hidden, inner = a["hidden_size"], a["intermediate_size"]
    queries, values = a["num_attention_heads"] * a["head_dim"], a["num_key_value_heads"] * a["head_dim"]
    attention = [(hidden, queries), (hidden, values), (hidden, values), (queries, hidden)]
    mlp = [(hidden, inner), (inner, hidden)] + ([(hidden, inner)] if a["mlp_type"] == "swiglu" else [])
    return [(*s, a["attention_bias"]) for s in attention] + [(*s, a["mlp_bias"]) for s in mlp]


def linear_parameters(architecture: Mapping[str, Any], fan_in: int, fan_out: int) -> int:
    """Weights of one linear; a KAN linear has a base weight and one weight per basis function."""
    factor = 1 + architecture["kan_grid_size"] if architecture["linear_type"] == "kan" else 1
    return fan_in * fan_out * factor


def has_value_embedding(architecture: Mapping[str, Any], layer_idx: int) -> bool:
    """Whether this layer carries a value embedding: every second one does, the last included."""
    return architecture["value_embeddings"] and (architecture["num_hidden_layers"] - 1 - layer_idx) % 2 == 0


def value_embedding_layers(architecture: Mapping[str, Any]) -> int:
    """How many layers carry a value embedding."""
    return sum(has_value_embedding(architecture, idx) for idx in range(architecture["num_hidden_layers"]))


def scaling_parameters(architecture: Mapping[str, Any]) -> int:
    """Block matrices plus head, the count that `target_param_data_ratio` multiplies (as nanochat counts)."""
    head = architecture["vocab_size"] * architecture["hidden_size"]
    return count_parameters(architecture).block_matrices + head


def flops_per_token(architecture: Mapping[str, Any], sequence_length: int) -> int:
    """Training FLOPs (forward and backward) for one token.

    6 per weight that meets the token in a matrix product (2 forward, 4 backward), the head included and the embedding
    lookup not, plus 12 x heads x head_dim x context per layer for the attention scores and values. The context is the
    row's length or the layer's window (PaLM, arXiv:2204.02311, appendix B; causal masking is not discounted, so MFU
    compares with nanochat's and PaLM's).
    """
    a = architecture
    attention = 0
    for layer_type in a["layer_types"]:
        windowed = layer_type == "sliding_attention" and a["sliding_window"]
        context = min(a["sliding_window"], sequence_length) if windowed else sequence_length
        attention += 12 * a["num_attention_heads"] * a["head_dim"] * context
    return 6 * scaling_parameters(a) + attention


def default_batch_rows(target_tokens: float, max_length: int) -> int:
    """Rows of `max_length` tokens in a batch for a run of `target_tokens`: a power of two by nanochat's law (see the
    constants above)."""
    horizon = target_tokens / (DEPTH_SERIES_RATIO * REFERENCE_HORIZON_PARAMETERS)
    return 2 ** max(0, round(math.log2(REFERENCE_BATCH_TOKENS * horizon**BATCH_GROWTH / max_length)))


def rows_that_divide(total_rows: int, per_device: int, num_processes: int) -> int:
    """The most rows of a pass, up to `per_device`, with which passes of all processes make up `total_rows`;
    `per_device` itself where none does."""
    fitting = (rows for rows in range(per_device, 0, -1) if total_rows % (rows * num_processes) == 0)
    return next(fitting, per_device)


@dataclass(frozen=True)
class BatchPlan:
    """Rows of one optimizer step: max_length x per_device x processes x accumulation = tokens_per_step."""

    max_length: int
    per_device_batch_size: int
    num_processes: int
    grad_accum_steps: int

    @property
    def rows_per_step(self) -> int:
        return self.per_device_batch_size * self.num_processes * self.grad_accum_steps

    @property
    def tokens_per_step(self) -> int:
        return self.max_length * self.rows_per_step


def plan_batch(
    total_batch_size: int | None, max_length: int, per_device: int, num_processes: int, grad_accum_steps: int = 1
) -> BatchPlan:
    """Derive gradient accumulation from `total_batch_size` (tokens); null keeps the accumulation that is given.

    Raises UserError, naming the nearest possible sizes, when the total is not a multiple of what one pass takes.
    """
    if total_batch_size is None:
        return BatchPlan(max_length, per_device, num_processes, grad_accum_steps)
    one_pass = max_length * per_device * num_processes
    if total_batch_size % one_pass:
        below, above = total_batch_size // one_pass * one_pass, -(-total_batch_size // one_pass) * one_pass
        nearest = f"{below:,} or {above:,}" if below else f"{above:,}"
        raise UserError(
            f"total_batch_size {total_batch_size:,} tokens is not a multiple of max_length {max_length:,} x "
            f"per_device_train_batch_size {per_device} x {num_processes} process(es) = {one_pass:,}; the nearest "
            f"possible: {nearest}."
        )
    return BatchPlan(max_length, per_device, num_processes, total_batch_size // one_pass)


@dataclass(frozen=True)
class Length:
    """How long a run is and which key said so; `steps` is None while it depends on data not prepared yet."""

    steps: int | None
    by: str


def steps_by_method(
    architecture: Mapping[str, Any],
    batch: BatchPlan,
    *,
    max_steps: int | None = None,
    target_flops: float | None = None,
    target_param_data_ratio: float | None = None,
    num_train_epochs: float | None = None,
    train_rows: int | None = None,
) -> list[Length]:
    """The length that each key asks for, in the order in which they win; keys that are null are left out."""
    lengths = []
    if max_steps is not None and max_steps > 0:
        lengths.append(Length(max_steps, "max_steps"))
    if target_flops:
        per_step = flops_per_token(architecture, batch.max_length) * batch.tokens_per_step
        lengths.append(Length(max(1, round(target_flops / per_step)), "target_flops"))
    if target_param_data_ratio:
        tokens = target_param_data_ratio * scaling_parameters(architecture)
        lengths.append(Length(max(1, round(tokens / batch.tokens_per_step)), "target_param_data_ratio"))
    if num_train_epochs:
        steps = max(1, round(num_train_epochs * train_rows / batch.rows_per_step)) if train_rows else None
        lengths.append(Length(steps, "num_train_epochs"))
    return lengths
