"""The shape of a model as plain arithmetic: every switch with its default, what a value left open becomes, which
shapes are impossible, and the two families. Standard library only: it also travels inside every checkpoint."""

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

# OpenAI's four sizes: (layers, hidden size, heads). Radford et al. 2019, table 2; head counts from the released files.
GPT2_SIZES = {
    "gpt2": (12, 768, 12),
    "gpt2-medium": (24, 1024, 16),
    "gpt2-large": (36, 1280, 20),
    "gpt2-xl": (48, 1600, 25),
}


# Of the depth series at nanochat's context of 2,048; shorter ones turn as far in proportion (docs/ablations.md).
ROPE_THETA = 100_000.0
# The depth series' table of token pairs: 16 rows a token of the vocabulary, up to 65,536, and none above 12 layers:
# what it gains shrinks with size (docs/ablations.md), and at 25 it was lost in wall-clock time (nanochat dev/LOG.md).
BIGRAM_ROWS_PER_TOKEN = 16
MOST_BIGRAM_ROWS = 65_536
DEEPEST_WITH_BIGRAMS = 12
MOST_LAYERS = 10_000  # far beyond any model: more is a slip, and a list with an entry a layer would fill the memory


@dataclass(kw_only=True, repr=False, eq=False)
class Architecture:
    """Every switch of the model. The defaults are GPT-2 small; `resolve()` fills in the values left at None."""

    vocab_size: int = 50257
    max_position_embeddings: int = 1024  # context length, tokens
    hidden_size: int = 768
    intermediate_size: int = None  # type: ignore[assignment]  # None: 4 x hidden_size; for swiglu 8/3 x, which has as many parameters
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: int = None  # type: ignore[assignment]  # None: as many as query heads
    head_dim: int = None  # type: ignore[assignment]  # None: hidden_size / num_attention_heads
    position_embedding_type: Literal["learned", "rope"] = "learned"
    rope_theta: float = 10000.0
    norm_type: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_weight: bool = True  # learnable gain (LayerNorm: and bias) in every norm
    norm_eps: float = 1e-5
    embedding_norm: bool = False
    qk_norm: bool = False  # RMSNorm over each head of queries and keys
    attention_multiplier: float | None = None  # scale of the attention logits; None: 1/sqrt(head_dim)
    mlp_type: Literal["gelu", "relu2", "swiglu"] = "gelu"
    linear_type: Literal["dense", "kan"] = "dense"
    kan_grid_size: int = 5
    attention_bias: bool = True
    mlp_bias: bool = True
    tie_word_embeddings: bool = True
    final_logit_softcapping: float | None = None  # c in c * tanh(logits / c); None or 0: off
    sliding_window: int | None = None  # tokens that a sliding_attention layer sees, the current one included
    layer_types: list[str] = None  # type: ignore[assignment]  # None: full_attention everywhere
    value_embeddings: bool = False  # gated value embeddings in every second layer, the last included
    bigram_vocab_size: int = 0  # rows of a hashed table of token pairs, added to the token embedding; 0: no table
    residual_scalars: bool = False  # per layer: hidden = a * hidden + b * embedding
    smear: bool = False  # each token's embedding takes in a gated share of the one before it
    backout: bool = False  # before the last norm, a learnt share of the stream at half depth is taken away
    init_scheme: Literal["gpt2", "depth"] = "gpt2"
    initializer_range: float = 0.02
    embedding_dropout: float = 0.0
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0

    def resolve(self) -> None:
        """Fill in what was left open, then refuse a shape that cannot exist.

        Raises:
            ValueError: one sentence that names the key.
        """
        self._check_types()
        for name in ("hidden_size", "num_attention_heads", "num_hidden_layers"):
            _at_least(name, getattr(self, name), 1)
        _at_most("num_hidden_layers", self.num_hidden_layers, MOST_LAYERS)
        if self.intermediate_size is None:
            self.intermediate_size = default_intermediate_size(self.hidden_size, self.mlp_type)
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            if self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"hidden_size {self.hidden_size} does not divide into num_attention_heads "
                    f"{self.num_attention_heads}; change one of them or set head_dim."
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.layer_types is None:
            self.layer_types = ["full_attention"] * self.num_hidden_layers
        self.final_logit_softcapping = self.final_logit_softcapping or None
        self.sliding_window = self.sliding_window or None
        self._check_values()

    def has_value_embedding(self, layer_idx: int) -> bool:
        """Whether this layer mixes a value embedding into its values: every second one, the last included."""
        return self.value_embeddings and (self.num_hidden_layers - 1 - layer_idx) % 2 == 0

    def _check_types(self) -> None:
        kinds = typing.get_type_hints(Architecture)
        for field in dataclasses.fields(Architecture):
            name, kind, value = field.name, kinds[field.name], getattr(self, field.name)
            left_open = value is None and field.default is None
            if not left_open and not _is_a(value, kind):
                raise ValueError(f"{name} must be {_describe(kind)}, not {value!r}.")

    def _check_values(self) -> None:
        for name in ("vocab_size", "max_position_embeddings", "intermediate_size", "num_key_value_heads", "head_dim"):
            _at_least(name, getattr(self, name), 1)
        _at_least("kan_grid_size", self.kan_grid_size, 2)
        _at_least("bigram_vocab_size", self.bigram_vocab_size, 0)
        for name in ("norm_eps", "rope_theta", "initializer_range", "attention_multiplier", "final_logit_softcapping"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be greater than 0 and finite, not {value}.")
        for name in ("embedding_dropout", "hidden_dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, not {getattr(self, name)}.")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} does not divide into num_key_value_heads "
                f"{self.num_key_value_heads}."
            )
        if self.position_embedding_type == "rope" and self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} must be even with position_embedding_type rope.")
        self._check_layer_types()

    def _check_layer_types(self) -> None:
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types has {len(self.layer_types)} entries but num_hidden_layers is {self.num_hidden_layers}."
            )
        unknown = [kind for kind in self.layer_types if kind not in ("full_attention", "sliding_attention")]
        if unknown:
            raise ValueError(f"layer_types may hold full_attention and sliding_attention, not {unknown[0]!r}.")
        if self.sliding_window is not None:
            _at_least("sliding_window", self.sliding_window, 1)
        if "sliding_attention" in self.layer_types and self.sliding_window is None:
            raise ValueError("layer_types names sliding_attention, which needs sliding_window, in tokens.")


def depth_series(
    depth: int, *, max_position_embeddings: int = 2048, vocab_size: int = 32768, **overrides: Any
) -> dict[str, Any]:
    """Every architecture key of the depth series' model with `depth` layers, as keywords for GPTConfig.

    The dial is nanochat's: the width is 64 x depth, rounded up to whole heads of 128. Below 512 wide, heads of 128
    would leave one to three of them, so there they are 64 wide; the narrowest model is 128 wide. Of four layers three
    see a quarter of the context, rounded up to 128 tokens, and the last layer sees all of it; where that window would
    not be shorter than the context every layer is full. Up to 12 layers token pairs have an embedding too.
    `overrides` are any keys of Architecture; one that is None is taken as not given, and `sliding_window=0` makes
    every layer full.

    Raises:
        ValueError: one sentence that names the key.
    """
    given = _known(overrides)
    if isinstance(depth, bool) or not isinstance(depth, int):
        raise ValueError(f"depth must be a whole number of layers, not {depth!r}.")
    _at_least("depth", depth, 1)
    _at_most("depth", depth, MOST_LAYERS)
    layers = given.get("num_hidden_layers", depth)
    head_dim = given.get("head_dim", 128 if 64 * depth >= 512 else 64)
    if not _is_a(head_dim, int) or head_dim < 1:
        raise ValueError(f"head_dim must be a whole number of at least 1, not {head_dim!r}.")
    hidden_size = given.get("hidden_size", max(128, -(-64 * depth // head_dim) * head_dim))
    if not _is_a(hidden_size, int):
        raise ValueError(f"hidden_size must be a whole number, not {hidden_size!r}.")
    if "num_attention_heads" in given and "head_dim" not in given:
        head_dim = None
    elif "num_attention_heads" not in given and hidden_size % head_dim:
        raise ValueError(f"hidden_size {hidden_size} does not divide into heads of head_dim {head_dim}.")
    shape: dict[str, Any] = {
        "vocab_size": vocab_size,
        "max_position_embeddings": max_position_embeddings,
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden_size // head_dim if head_dim else None,
        "head_dim": head_dim,
        "position_embedding_type": "rope",
        "rope_theta": ROPE_THETA,
        "norm_type": "rmsnorm",
        "norm_weight": False,
        "norm_eps": 1e-6,
        "embedding_norm": True,
        "qk_norm": True,
        "mlp_type": "relu2",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "final_logit_softcapping": 15.0,
        "value_embeddings": True,
        "residual_scalars": True,
        "init_scheme": "depth",
    }
    if _is_a(max_position_embeddings, int):
        shape["rope_theta"] *= max_position_embeddings / 2048
    if _is_a(vocab_size, int) and _is_a(layers, int) and layers <= DEEPEST_WITH_BIGRAMS:
        shape["bigram_vocab_size"] = min(BIGRAM_ROWS_PER_TOKEN * vocab_size, MOST_BIGRAM_ROWS)
    shape.update(given)
    _add_sliding_pattern(shape)
    architecture = Architecture(**shape)
    architecture.resolve()
    if architecture.attention_multiplier is None and architecture.qk_norm:
        # Normed queries and keys make flat attention; nanochat sharpens each of the two by 1.2.
        architecture.attention_multiplier = 1.2 * 1.2 / architecture.head_dim**0.5
    return architecture_keys(architecture)


def gpt2_shape(name: str, **overrides: Any) -> dict[str, Any]:
    """Every architecture key of one of OpenAI's four GPT-2 sizes, as keywords for GPTConfig.

    Raises:
        ValueError: one sentence that names the key, or the names that are known.
    """
    if name not in GPT2_SIZES:
        raise ValueError(f"preset must be one of {', '.join(GPT2_SIZES)}, not {name!r}.")
    layers, hidden_size, heads = GPT2_SIZES[name]
    shape = {"num_hidden_layers": layers, "hidden_size": hidden_size, "num_attention_heads": heads}
    architecture = Architecture(**shape | _known(overrides))
    architecture.resolve()
    return architecture_keys(architecture)


def architecture_keys(architecture: Architecture) -> dict[str, Any]:
    """The architecture as a dict, `layer_types` copied."""
    values = {field.name: getattr(architecture, field.name) for field in dataclasses.fields(Architecture)}
    return values | {"layer_types": list(values["layer_types"])}


def default_intermediate_size(hidden_size: int, mlp_type: str) -> int:
    """Width of the MLP: 4 x hidden_size, or for swiglu 8/3 x rounded up to 64, whose three matrices weigh the same
    (Shazeer 2020, arXiv:2002.05202)."""
    if mlp_type == "swiglu":
        return -(-8 * hidden_size // (3 * 64)) * 64
    return 4 * hidden_size


def _add_sliding_pattern(shape: dict[str, Any]) -> None:
    """Set `layer_types` and `sliding_window` in place to three short layers, one long, the last always long."""
    context, layers = shape["max_position_embeddings"], shape["num_hidden_layers"]
    is_whole = _is_a(context, int) and _is_a(layers, int) and _is_a(shape.get("sliding_window"), int | None)
    if not is_whole or layers > MOST_LAYERS:
        return  # Architecture.resolve() names the key
    window = shape.get("sliding_window", -(-context // 4 // 128) * 128)
    if window >= context or window == 0:
        shape.setdefault("layer_types", ["full_attention"] * layers)
    else:
        kinds = ["sliding_attention"] * 3 + ["full_attention"]
        pattern = [kinds[layer_idx % 4] for layer_idx in range(layers - 1)] + ["full_attention"]
        shape.setdefault("layer_types", pattern)
    is_list = isinstance(shape["layer_types"], list)
    shape["sliding_window"] = window if is_list and "sliding_attention" in shape["layer_types"] else None


def _known(overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides that are given, after refusing names that are no architecture key."""
    names = [field.name for field in dataclasses.fields(Architecture)]
    for name in overrides:
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else "."
            raise ValueError(f"{name} is not a key of the model{hint}")
    return {name: value for name, value in overrides.items() if value is not None}


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")


def _at_most(name: str, value: int, most: int) -> None:
    if value > most:
        raise ValueError(f"{name} must be at most {most:,}, not {value:,}.")


def _is_a(value: Any, kind: Any) -> bool:
    """Whether the value is of an annotated type; a bool is no number, and a whole number will do for a float."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(_is_a(value, option) for option in typing.get_args(kind))
    if typing.get_origin(kind) is Literal:
        return isinstance(value, str) and value in typing.get_args(kind)
    if typing.get_origin(kind) is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in typing.get_args(kind))
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    if typing.get_origin(kind) is list:
        return "a list of strings"
    return {int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null"}[kind]
