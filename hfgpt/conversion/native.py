"""What an architecture that transformers ships has in common with ours: which switches it can express, and whose
tensors are whose. One class an architecture, in the files beside this one; nothing here reads or writes a file."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hfgpt.errors import UserError
from hfgpt.model import GPTConfig
from hfgpt.model.architecture import Architecture, architecture_keys

State = dict[str, torch.Tensor]
# Of no effect on what a trained model computes.
TRAINING_ONLY = frozenset(
    ("init_scheme", "initializer_range", "embedding_dropout", "hidden_dropout", "attention_dropout")
)
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Keys that the configurations of Llama, Qwen3 and NanoChat and ours call by the same name.
SAME_IN_ROTARY_MODELS = (
    *("vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "attention_bias", "tie_word_embeddings"),
)


class NativeFamily(ABC):
    """One architecture of transformers beside ours."""

    name: ClassVar[str]  # transformers' model_type
    config_class: ClassVar[type[PreTrainedConfig]]
    model_class: ClassVar[type[PreTrainedModel]]
    # Switches of ours that the architecture lacks and its weights can stand for: a missing bias is one of zeros.
    expressed_by_weights: ClassVar[frozenset[str]] = frozenset()
    # Whether hidden_size must divide by the number of heads.
    whole_heads: ClassVar[bool] = True

    @abstractmethod
    def switches_of(self, config: Any) -> dict[str, Any]:
        """Our architecture keys for a configuration of this architecture.

        Raises UserError naming the key of `config` that none of our switches can express.
        """

    @abstractmethod
    def native_keys(self, config: GPTConfig) -> dict[str, Any]:
        """The keys of this architecture's configuration, as far as it can express ours."""

    @abstractmethod
    def to_ours(self, state: State, config: GPTConfig) -> State:
        """Our parameters from those of this architecture, by name; `config` is ours."""

    @abstractmethod
    def to_native(self, state: State, config: GPTConfig) -> State:
        """This architecture's parameters from ours, without those that only stand for a switch of ours."""

    def lacking_elsewhere(self, config: GPTConfig) -> list[str]:
        """Switches of ours that this architecture has in transformers, and that vLLM's or llama.cpp's own version of
        it lacks: there such a model computes something else, or is refused."""
        return []

    def native_config(self, config: GPTConfig) -> PreTrainedConfig:
        """This architecture's configuration, as near to ours as it can be."""
        tokens = {key: value for key, value in config.to_dict().items() if key in TOKEN_IDS}
        return self.config_class(**self.native_keys(config), **tokens)

    def obstacles(self, config: GPTConfig) -> dict[str, tuple[Any, Any]]:
        """Each switch of ours that this architecture cannot express: {switch: (our value, its value)}.

        What a configuration there and back does not give again stands in the way, so that no switch is forgotten.
        """
        if self.whole_heads and config.hidden_size % config.num_attention_heads:
            return {"head_dim": (config.head_dim, "hidden_size / num_attention_heads, which is no whole number")}
        there_and_back = Architecture(**self.switches_of(self.native_config(config)))
        there_and_back.resolve()
        ours, theirs = _effective(config), _effective(there_and_back)
        ignored = TRAINING_ONLY | self.expressed_by_weights
        return {
            key: (value, theirs[key]) for key, value in ours.items() if key not in ignored and value != theirs[key]
        }


def _effective(architecture: Architecture) -> dict[str, Any]:
    """The architecture's keys, those without effect at one value."""
    keys = architecture_keys(architecture)
    if architecture.position_embedding_type == "learned":
        keys["rope_theta"] = None
    if "sliding_attention" not in architecture.layer_types:
        keys["sliding_window"] = None
    if architecture.linear_type == "dense":
        keys["kan_grid_size"] = None
    scale = architecture.attention_multiplier or architecture.head_dim**-0.5
    return keys | {"attention_multiplier": float(f"{scale:.6g}")}  # as a recipe may write it


def rotary_switches(config: Any, mlp_types: dict[str, str]) -> dict[str, Any]:
    """Our keys for what the configurations of Llama, Qwen3 and NanoChat have in common; `mlp_types` names the one that
    each of their `hidden_act` stands for."""
    return {key: getattr(config, key) for key in SAME_IN_ROTARY_MODELS} | {
        "position_embedding_type": "rope",
        "rope_theta": rope_theta_of(config),
        "norm_type": "rmsnorm",
        "norm_eps": config.rms_norm_eps,
        "mlp_type": mlp_type_of(config.hidden_act, mlp_types, "hidden_act", config.model_type),
        "attention_dropout": float(config.attention_dropout or 0.0),
    }


def rotary_keys(config: GPTConfig, hidden_act: str) -> dict[str, Any]:
    """What `rotary_switches` reads, from our configuration."""
    return {key: getattr(config, key) for key in SAME_IN_ROTARY_MODELS} | {
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rms_norm_eps": config.norm_eps,
        "hidden_act": hidden_act,
        "attention_dropout": config.attention_dropout,
    }


def fold_attention_multiplier(state: State, config: GPTConfig, suffixes: tuple[str, ...]) -> State:
    """`state` (ours) with the attention's scale in the tensors whose names end in one of `suffixes`, for an
    architecture whose own scale is 1/sqrt(head_dim). Where ours is that too, nothing changes."""
    factor = (config.attention_multiplier or config.head_dim**-0.5) * config.head_dim**0.5
    if abs(factor - 1) < 1e-12:
        return state
    return {name: tensor * factor if name.endswith(suffixes) else tensor for name, tensor in state.items()}


def fill_neutral(state: State, wanted: State) -> State:
    """`state` with what it lacks of `wanted`: biases of zeros, and gains (weights of one dimension) of ones."""
    missing = {name: tensor for name, tensor in wanted.items() if name not in state}
    biases = {name: torch.zeros_like(tensor) for name, tensor in missing.items() if name.endswith(".bias")}
    gains = {name: torch.ones_like(t) for name, t in missing.items() if name.endswith(".weight") and t.ndim == 1}
    return state | biases | gains


def mlp_type_of(activation: str, known: dict[str, str], key: str, name: str) -> str:
    """Our `mlp_type` for an activation function of `known`. Raises UserError for another."""
    if activation not in known:
        raise UserError(
            f"{key} {activation} of this {name} model has no switch in hfgpt: it can be {' or '.join(known)} only."
        )
    return known[activation]


def rope_theta_of(config: Any) -> float:
    """The base of plain rotary positions. Raises UserError for any other kind (Llama 3.1's scaled ones, YaRN ...)."""
    rope = config.rope_parameters
    kind = rope["rope_type"]
    if kind != "default":
        raise UserError(
            f"rope_parameters.rope_type {kind} of this {config.model_type} model has no switch in hfgpt: only plain "
            "rotary positions (default) can be imported."
        )
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(
            f"rope_parameters.partial_rotary_factor {rope['partial_rotary_factor']} of this {config.model_type} model "
            "has no switch in hfgpt: heads are rotated whole."
        )
    return float(rope["rope_theta"])


def swap_rotary_halves(tensor: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Weights (heads x d, ...) or biases of queries or keys for the other sense of rotation; its own inverse.

    nanochat rotates by -theta where Llama, and we, rotate by theta: with the two halves of each head's channels
    exchanged one is the other.
    """
    halves = tensor.view(num_heads, 2, -1, *tensor.shape[1:])
    return halves.flip(1).reshape(tensor.shape)
