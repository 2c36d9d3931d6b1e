"""The GPT: one decoder whose switches (configuration_gpt.py) span GPT-2 and the depth series. Plain torch; attention
goes through transformers' attention interface. Imports nothing of hfgpt but its neighbours.

Packed rows: give `position_ids` that restart at each document and no attention_mask, and attention stays inside each
document on every backend. Letters in shapes: b batch, t tokens, h query heads, k key/value heads, d head_dim."""

import math
from collections.abc import Callable
from typing import Any, Literal, Unpack

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.generation import GenerationMixin
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import is_flash_attention_requested, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_gpt import GPTConfig
from .linear_cross_entropy import linear_cross_entropy, token_losses

# The gates of a value embedding and of the smear read this many channels of their input, as in nanochat.
# Their `in_features` may be less, but vLLM puts linears in their place that have none.
VALUE_GATE_CHANNELS = 12
SMEAR_GATE_CHANNELS = 24
MASK_MAKERS: dict[str, Callable] = {
    "full_attention": create_causal_mask,
    "sliding_attention": create_sliding_window_causal_mask,
}


class GPTNorm(nn.Module):
    """LayerNorm or RMSNorm over the last dimension, with or without a learnable gain (LayerNorm: and bias)."""

    def __init__(self, config: GPTConfig, size: int, norm_type: str) -> None:
        super().__init__()
        self.size = (size,)
        self.norm_type = norm_type
        self.eps = config.norm_eps
        self.weight = nn.Parameter(torch.ones(size)) if config.norm_weight else None
        self.bias = nn.Parameter(torch.zeros(size)) if config.norm_weight and norm_type == "layernorm" else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.norm_type == "layernorm":
            return F.layer_norm(hidden_states, self.size, self.weight, self.bias, self.eps)
        return F.rms_norm(hidden_states, self.size, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.norm_type}, {self.size[0]}, eps={self.eps}, weight={self.weight is not None}"


class GPTKANLinear(nn.Module):
    """A Kolmogorov-Arnold linear: y = base(silu(x)) + spline(phi(norm(x))), phi being `kan_grid_size` Gaussian bumps
    on [-2, 2] for every input, centred. FastKAN (Li 2024, arXiv:2405.06721); both branches are plain matrices."""

    def __init__(self, config: GPTConfig, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.grid_size = config.kan_grid_size
        self.eps = config.norm_eps
        self.base = nn.Linear(in_features, out_features, bias=bias)
        self.spline = nn.Linear(in_features * self.grid_size, out_features, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        # The norm keeps every input on the grid, whatever the scale of what comes in.
        normed = F.layer_norm(inputs, (self.in_features,), eps=self.eps)
        centers = torch.linspace(-2.0, 2.0, self.grid_size, device=inputs.device, dtype=normed.dtype)
        width = 4.0 / (self.grid_size - 1)
        bumps = torch.exp(-(((normed.unsqueeze(-1) - centers) / width) ** 2))  # (..., in_features, grid)
        # Less their mean over a standard normal input: else a fresh layer adds one large vector to every token, and
        # a GPT-2 shape hardly learns.
        means = torch.exp(-(centers**2) / (width**2 + 2)) / math.sqrt(1 + 2 / width**2)
        return self.base(F.silu(inputs)) + self.spline((bumps - means).flatten(-2))


def block_linear(config: GPTConfig, in_features: int, out_features: int, bias: bool) -> nn.Module:
    """A linear of the blocks, dense or KAN as the configuration says."""
    if config.linear_type == "kan":
        return GPTKANLinear(config, in_features, out_features, bias)
    return nn.Linear(in_features, out_features, bias=bias)


class GPTBigramEmbedding(nn.Module):
    """An embedding for each token together with the one before it, rows shared by hashing: what follows a pair need
    not be learned by attention first. Hashed n-gram memory as in DeepSeek's Engram (arXiv:2601.07372), in the plain
    form of modded-nanogpt: added to the token embedding, no gate."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.bigram_vocab_size, config.hidden_size)

    def forward(self, input_ids: torch.Tensor, previous_ids: torch.Tensor) -> torch.Tensor:
        """(b, t, hidden_size) for token ids (b, t) and the ids before them, -1 where a document begins."""
        return self.table(bigram_rows(input_ids, previous_ids, self.table.num_embeddings))


def bigram_rows(input_ids: torch.Tensor, previous_ids: torch.Tensor, num_rows: int) -> torch.Tensor:
    """The row of each pair: Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4) of the previous id, so
    that pairs of frequent tokens, whose ids are small, fall far apart."""
    multiplier = round(num_rows * (math.sqrt(5) - 1) / 2) | 1
    return (previous_ids * multiplier + input_ids) % num_rows


class GPTSmear(nn.Module):
    """Mixes into each token's embedding a gated share of the one before it: the cheapest look back by one token. Of
    modded-nanogpt, in nanochat's form."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(min(SMEAR_GATE_CHANNELS, config.hidden_size), 1, bias=False)
        self.scalar = nn.Parameter(torch.zeros(1))

    def forward(
        self, hidden_states: torch.Tensor, previous_states: torch.Tensor, has_previous: torch.Tensor
    ) -> torch.Tensor:
        """Both states (b, t, hidden_size); has_previous (b, t) is false where a document begins."""
        share = self.scalar * torch.sigmoid(self.gate(hidden_states[..., :SMEAR_GATE_CHANNELS]))
        return hidden_states + share * has_previous.unsqueeze(-1) * previous_states


class GPTRotaryEmbedding(nn.Module):
    """Rotary angles (Su et al. 2021, arXiv:2104.09864), computed anew: no buffer that a cast to bf16 could spoil."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.theta = config.rope_theta

    @torch.no_grad()
    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin of shape (b or 1, t, d / 2) for position_ids of shape (b or 1, t)."""
        exponents = torch.arange(0, self.head_dim, 2, device=position_ids.device, dtype=torch.float32) / self.head_dim
        angles = position_ids.unsqueeze(-1).float() * self.theta**-exponents
        return angles.cos().to(hidden_states.dtype), angles.sin().to(hidden_states.dtype)


def apply_rotary_embedding(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate states (b, heads, t, d); channel i pairs with channel i + d / 2, as in Llama."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # (b, 1, t, d / 2)
    first, second = states.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def eager_attention_forward(
    module: "GPTAttention",
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention as the formula says. query (b, h, t, d), key and value (b, k, s, d) -> (b, t, h, d), weights."""
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = (query @ key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def takes_sequence_lengths(config: GPTConfig) -> bool:
    """Whether the attention in use keeps to documents by their lengths instead of a mask: transformers' flash kernels,
    and any that is registered as "varlen"."""
    return is_flash_attention_requested(config) or config._attn_implementation == "varlen"


def packed_sequence_lengths(position_ids: torch.Tensor) -> dict[str, Any]:
    """What flash attention needs to keep to documents: a sequence starts with each row of position_ids (b, t) and
    wherever they do not go up by one. transformers sees this for b = 1 only. Syncs with the device once; a collator
    that passes these four keywords itself spares that."""
    starts = F.pad(position_ids.diff(dim=-1) != 1, (1, 0), value=True).flatten()
    starts = F.pad(starts, (0, 1), value=True)  # the end of the last sequence
    cu_seq_lens = starts.nonzero().squeeze(-1).to(torch.int32)
    longest = position_ids.shape[-1]  # an upper bound is all that the kernel asks for
    return {
        "cu_seq_lens_q": cu_seq_lens,
        "cu_seq_lens_k": cu_seq_lens,
        "max_length_q": longest,
        "max_length_k": longest,
    }


class GPTAttention(nn.Module):
    """Causal self-attention: grouped queries, and by switch rotary positions, QK norm, a sliding window, and a gated
    value embedding (value residual learning, Zhou et al. 2024, arXiv:2410.17897; in this form nanochat's)."""

    def __init__(self, config: GPTConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.attention_multiplier or self.head_dim**-0.5
        self.sliding_window = config.sliding_window if config.layer_types[layer_idx] == "sliding_attention" else None
        self.is_causal = True

        hidden_size, bias = config.hidden_size, config.attention_bias
        query_size = config.num_attention_heads * self.head_dim
        key_value_size = config.num_key_value_heads * self.head_dim
        self.q_proj = block_linear(config, hidden_size, query_size, bias)
        self.k_proj = block_linear(config, hidden_size, key_value_size, bias)
        self.v_proj = block_linear(config, hidden_size, key_value_size, bias)
        self.o_proj = block_linear(config, query_size, hidden_size, bias)
        self.q_norm = GPTNorm(config, self.head_dim, "rmsnorm") if config.qk_norm else None
        self.k_norm = GPTNorm(config, self.head_dim, "rmsnorm") if config.qk_norm else None
        self.value_embed: nn.Embedding | None = None
        self.value_gate: nn.Linear | None = None
        if config.has_value_embedding(layer_idx):
            self.value_embed = nn.Embedding(config.vocab_size, key_value_size)
            self.value_gate = nn.Linear(min(VALUE_GATE_CHANNELS, hidden_size), config.num_key_value_heads, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        input_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        input_shape = hidden_states.shape[:-1]  # (b, t)
        head_shape = (*input_shape, -1, self.head_dim)

        query = self.q_proj(hidden_states).view(head_shape)  # (b, t, h, d)
        key = self.k_proj(hidden_states).view(head_shape)  # (b, t, k, d)
        value = self.v_proj(hidden_states).view(head_shape)
        if self.value_embed is not None and self.value_gate is not None:
            gate = 3 * torch.sigmoid(self.value_gate(hidden_states[..., :VALUE_GATE_CHANNELS]))  # (b, t, k)
            value = value + gate.unsqueeze(-1) * self.value_embed(input_ids).view(head_shape).to(value.dtype)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        if position_embeddings is not None:
            query = apply_rotary_embedding(query, *position_embeddings)
            key = apply_rotary_embedding(key, *position_embeddings)
        # Under autocast norms and rotations return float32 while projections do not; the kernels want one dtype.
        query, key = query.to(value.dtype), key.to(value.dtype)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)

        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        return self.o_proj(output.reshape(*input_shape, -1)), weights


class GPTMLP(nn.Module):
    """The feed-forward half of a block: gelu (GPT-2's tanh form), squared relu, or swiglu."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.mlp_type = config.mlp_type
        gated = config.mlp_type == "swiglu"
        hidden_size, intermediate_size, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.up_proj = block_linear(config, hidden_size, intermediate_size, bias)
        self.gate_proj = block_linear(config, hidden_size, intermediate_size, bias) if gated else None
        self.down_proj = block_linear(config, intermediate_size, hidden_size, bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        inner = self.up_proj(hidden_states)  # (b, t, intermediate_size)
        if self.gate_proj is not None:
            inner = F.silu(self.gate_proj(hidden_states)) * inner
        elif self.mlp_type == "relu2":
            inner = F.relu(inner).square()
        else:
            inner = F.gelu(inner, approximate="tanh")
        return self.down_proj(inner)


class GPTDecoderLayer(GradientCheckpointingLayer):
    """Norm, attention, add; norm, MLP, add. With residual scalars the layer's input is first
    `residual_scalar * hidden_states + embedding_scalar * initial_hidden_states`."""

    def __init__(self, config: GPTConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.self_attn = GPTAttention(config, layer_idx)
        self.mlp = GPTMLP(config)
        self.input_layernorm = GPTNorm(config, config.hidden_size, config.norm_type)
        self.post_attention_layernorm = GPTNorm(config, config.hidden_size, config.norm_type)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.residual_scalar = nn.Parameter(torch.ones(1)) if config.residual_scalars else None
        self.embedding_scalar = nn.Parameter(torch.zeros(1)) if config.residual_scalars else None

    def forward(
        self,
        hidden_states: torch.Tensor,  # (b, t, hidden_size)
        initial_hidden_states: torch.Tensor,  # the embedding, same shape
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        input_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        if self.residual_scalar is not None and self.embedding_scalar is not None:
            hidden_states = self.residual_scalar * hidden_states + self.embedding_scalar * initial_hidden_states
        attention_output, _ = self.self_attn(
            self.input_layernorm(hidden_states),
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            input_ids=input_ids,
            **kwargs,
        )
        hidden_states = hidden_states + self.dropout(attention_output)
        return hidden_states + self.dropout(self.mlp(self.post_attention_layernorm(hidden_states)))


def looks_back(config: GPTConfig) -> bool:
    """Whether the embedding of a token depends on the one before it."""
    return config.bigram_vocab_size > 0 or config.smear


def previous_tokens(input_ids: torch.Tensor, cache: Cache | None, num_layers: int) -> torch.Tensor:
    """The token before each of input_ids (b, t); before the first one what `remember_tokens` put into the cache, or,
    in an empty one, any."""
    first = input_ids[:, :1]
    memory = cache.layers[num_layers] if cache is not None and len(cache.layers) > num_layers else None
    if isinstance(memory, DynamicLayer) and memory.keys is not None and memory.keys.shape[-2]:
        first = memory.keys[:, 0, -1:, 0].to(input_ids.device)
    elif cache is not None and cache.get_seq_length() > 0:  # of a static cache a tensor, asked for only without memory
        raise ValueError(
            "past_key_values does not know its last tokens, which bigram_vocab_size and smear need; give one that "
            "this model has filled."
        )
    return torch.cat((first, input_ids[:, :-1]), dim=1)


class LastToken(DynamicLayer):
    """Of what a cache of fixed size has seen, the last token: nothing grows, so that compiled code stays compiled."""

    is_compileable = True
    is_croppable = False

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.keys, self.values = key_states[..., -1:, :], value_states[..., -1:, :]
        self.is_initialized = True
        return self.keys, self.values


def remember_tokens(input_ids: torch.Tensor, cache: Cache, num_layers: int) -> None:
    """Append input_ids (b, t) to the cache as the keys of one more layer: so they are cropped, repeated and reordered
    with the others."""
    if len(cache.layers) == num_layers:
        cache.layers.append(DynamicLayer() if cache.is_croppable else LastToken())
    memory, ids = cache.layers[num_layers], input_ids[:, None, :, None]
    if isinstance(memory, DynamicLayer):  # as it was made above
        memory.update(ids, ids[..., :0])


class GPTPreTrainedModel(PreTrainedModel):
    """Initialisation, and what transformers may do with the model."""

    config: GPTConfig
    config_class = GPTConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GPTDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": GPTDecoderLayer, "attentions": GPTAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Children come before their parents, so a parent here overrules what its children were given."""
        depth_scheme = self.config.init_scheme == "depth"
        if isinstance(module, nn.Linear):
            if depth_scheme:
                _uniform(module.weight, module.in_features**-0.5)
            else:
                init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            # nanochat's 0.8 suits an embedding that is normed at once; as a tied head it would swamp the first logits.
            wide = depth_scheme and not self.config.tie_word_embeddings
            init.normal_(module.weight, std=0.8 if wide else self.config.initializer_range)
        elif isinstance(module, GPTBigramEmbedding):
            init.zeros_(module.table.weight)
        elif isinstance(module, GPTSmear):
            init.uniform_(module.gate.weight, 0.0, 0.02)
            init.zeros_(module.scalar)
        elif isinstance(module, GPTModel) and module.backout_scalar is not None:
            init.constant_(module.backout_scalar, 0.2)
        elif isinstance(module, GPTNorm):
            if module.weight is not None:
                init.ones_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, GPTAttention):
            self._init_output_projection(module.o_proj)
            if module.value_embed is not None and module.value_gate is not None:
                _uniform(module.value_embed.weight, self.config.hidden_size**-0.5)
                init.uniform_(module.value_gate.weight, 0.0, 0.02)
        elif isinstance(module, GPTMLP):
            self._init_output_projection(module.down_proj)
            if depth_scheme and isinstance(module.up_proj, nn.Linear):
                _uniform(module.up_proj.weight, 0.4 * self.config.hidden_size**-0.5)
        elif isinstance(module, GPTDecoderLayer):
            if module.residual_scalar is None or module.embedding_scalar is None:
                return
            # nanochat: early layers keep more of the stream and of the embedding than late ones.
            progress = module.layer_idx / max(1, self.config.num_hidden_layers - 1)
            init.constant_(module.residual_scalar, 1.15 - 0.10 * progress)
            init.constant_(module.embedding_scalar, 0.20 - 0.15 * progress)
        elif isinstance(module, GPTForCausalLM) and depth_scheme and not self.config.tie_word_embeddings:
            init.normal_(module.lm_head.weight, std=0.001)

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        """transformers passes over custom modules without parameters of their own, and so over the parents above.
        Its reason, code that fills loaded parameters anew, does not hold here: `init` leaves those alone."""
        super()._initialize_weights(module, is_custom_code=False)

    def _init_output_projection(self, projection: nn.Module) -> None:
        """A block's way back to the stream: zero in the depth scheme; in GPT-2's, smaller with depth (Radford et al.
        2019, section 2.3: by 1/sqrt of the number of residual layers, two a block)."""
        for module in projection.modules():
            if not isinstance(module, nn.Linear):
                continue
            if self.config.init_scheme == "depth":
                init.zeros_(module.weight)
            else:
                deep = math.sqrt(2 * self.config.num_hidden_layers)
                init.normal_(module.weight, std=self.config.initializer_range / deep)

    def _resize_token_embeddings(
        self, new_num_tokens: int | None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """The value embeddings are rows per token too, so they follow; new rows are like the mean of the old."""
        embeddings = super()._resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        for module in self.modules():
            if isinstance(module, GPTAttention) and module.value_embed is not None:
                old = module.value_embed
                module.value_embed = self._get_resized_embeddings(old, embeddings.weight.shape[0])
                module.value_embed.requires_grad_(old.weight.requires_grad)
        return embeddings

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Nothing to do: GPTConfig.save_pretrained writes the source files and their map into every folder."""


def _uniform(tensor: torch.Tensor, std: float) -> None:
    """Uniform of this standard deviation: no outliers, as nanochat has it."""
    init.uniform_(tensor, -math.sqrt(3) * std, math.sqrt(3) * std)


class GPTModel(GPTPreTrainedModel):
    """Everything but the head."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        if self.config._attn_implementation == "vllm" and looks_back(config):
            raise ValueError(
                "vLLM gives a model its new tokens without those before them, at which bigram_vocab_size and smear "
                "look; serve this model with hfgpt serve, or by transformers."
            )
        learned = config.position_embedding_type == "learned"
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size) if learned else None
        self.embed_bigrams = GPTBigramEmbedding(config) if config.bigram_vocab_size else None
        self.smear = GPTSmear(config) if config.smear else None
        self.backout_scalar = nn.Parameter(torch.full((1,), 0.2)) if config.backout else None
        self.rotary_emb = None if learned else GPTRotaryEmbedding(config)
        self.embedding_norm = GPTNorm(config, config.hidden_size, config.norm_type) if config.embedding_norm else None
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(
            [GPTDecoderLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)]
        )
        self.norm = GPTNorm(config, config.hidden_size, config.norm_type)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(  # type: ignore[misc]  # the keywords' type names position_ids again
        self,
        input_ids: torch.Tensor | None = None,  # (b, t)
        attention_mask: torch.Tensor | dict[str, Any] | None = None,  # (b, t so far), (b, 1, t, s), or a mask a kind
        position_ids: torch.Tensor | None = None,  # (b or 1, t)
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,  # (b, t, hidden_size)
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        is_packed = position_ids is not None and attention_mask is None
        hidden_states = self._embed(input_ids, inputs_embeds, is_packed)
        batch_size, length, _ = hidden_states.shape

        # Masks and lengths are made before a new cache is: with one, transformers no longer looks for packed rows.
        masks = attention_mask
        if not isinstance(masks, dict):
            masks = {
                kind: MASK_MAKERS[kind](
                    config=self.config,
                    inputs_embeds=hidden_states,
                    attention_mask=attention_mask,
                    past_key_values=past_key_values,
                    position_ids=position_ids,
                )
                for kind in dict.fromkeys(self.config.layer_types)
            }
        wants_lengths = takes_sequence_lengths(self.config) and "cu_seq_lens_q" not in kwargs
        if wants_lengths and position_ids is not None and attention_mask is None and past_key_values is None:
            kwargs.update(packed_sequence_lengths(position_ids.expand(batch_size, -1)))
        if use_cache and not self.training and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)

        if position_ids is None:
            past_length = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(length, device=hidden_states.device) + past_length).unsqueeze(0)
            # Padding on the left shifts positions, which rotary ones do not mind.
            if (
                self.embed_positions is not None
                and isinstance(attention_mask, torch.Tensor)
                and attention_mask.ndim == 2
            ):
                position_ids = (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)[:, -length:]
        previous_ids: torch.Tensor | None = None
        if input_ids is not None and looks_back(self.config):
            previous_ids = previous_tokens(input_ids, past_key_values, self.config.num_hidden_layers)
            has_previous = position_ids > 0
            if attention_mask is not None and not isinstance(attention_mask, dict) and attention_mask.ndim == 2:
                has_previous = has_previous & F.pad(attention_mask, (1, 0))[:, -length - 1 : -1].bool()
            previous_ids = torch.where(has_previous, previous_ids, -1)
        if self.embed_bigrams is not None and previous_ids is not None:
            hidden_states = hidden_states + self.embed_bigrams(input_ids, previous_ids)
        position_embeddings = None
        if self.embedding_norm is not None:
            hidden_states = self.embedding_norm(hidden_states)
        if self.smear is not None and previous_ids is not None:
            previous_states = self.embed_tokens(previous_ids.clamp(min=0))  # without what came before them
            if self.embedding_norm is not None:
                previous_states = self.embedding_norm(previous_states)
            hidden_states = self.smear(hidden_states, previous_states, previous_ids >= 0)
        if self.embed_positions is not None:
            hidden_states = hidden_states + self.embed_positions(position_ids)
        if self.rotary_emb is not None:
            position_embeddings = self.rotary_emb(hidden_states, position_ids)
        hidden_states = self.dropout(hidden_states)

        # Positional: activation checkpointing in its reentrant form follows gradients through these alone.
        initial_hidden_states = hidden_states
        half_depth_states = None
        for layer, kind in zip(self.layers, self.config.layer_types, strict=True):
            hidden_states = layer(
                hidden_states,
                initial_hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=masks[kind],
                past_key_values=past_key_values,
                input_ids=input_ids if self.config.value_embeddings else None,
                position_ids=position_ids,
                **kwargs,
            )
            if layer.layer_idx == self.config.num_hidden_layers // 2:
                half_depth_states = hidden_states
        if self.backout_scalar is not None and half_depth_states is not None:
            hidden_states = hidden_states - self.backout_scalar * half_depth_states
        if previous_ids is not None and input_ids is not None and past_key_values is not None:
            remember_tokens(input_ids, past_key_values, self.config.num_hidden_layers)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)

    def _embed(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, is_packed: bool
    ) -> torch.Tensor:
        """Token embeddings (b, t, hidden_size), after refusing inputs that the switches cannot take. A packed row may
        be longer than the context, which only its documents must fit."""
        needs_ids = self.config.value_embeddings or looks_back(self.config)
        if needs_ids and input_ids is None:
            raise ValueError(
                "inputs_embeds alone cannot run a model with value_embeddings, bigram_vocab_size or smear, which look "
                "tokens up elsewhere too; pass input_ids, with or without inputs_embeds."
            )
        if input_ids is None and inputs_embeds is None:
            raise ValueError("pass input_ids or inputs_embeds; both are None.")
        if input_ids is not None and inputs_embeds is not None and not needs_ids:
            raise ValueError("pass either input_ids or inputs_embeds, not both.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        is_too_long = inputs_embeds.shape[1] > self.config.max_position_embeddings
        if self.embed_positions is not None and is_too_long and not is_packed:
            raise ValueError(
                f"the input is {inputs_embeds.shape[1]} tokens long but the model's learned positions end at "
                f"max_position_embeddings {self.config.max_position_embeddings}."
            )
        return inputs_embeds


class GPTForCausalLM(GPTPreTrainedModel, GenerationMixin):
    """The model with its head, and next-token loss when labels are given."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}  # type: ignore[dict-item]
    # Another function of the same arguments may be set on a model for one run; it is never saved.
    linear_cross_entropy = staticmethod(linear_cross_entropy)
    # Set to True on a model for one run under FSDP2, whose hooks on the head allow that its forward is skipped.
    head_is_sharded = False

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.model = GPTModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(  # type: ignore[misc]  # the keywords' type names position_ids again
        self,
        input_ids: torch.Tensor | None = None,  # (b, t)
        attention_mask: torch.Tensor | dict[str, Any] | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,  # (b, t), -100 where there is no loss; shifted here
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,  # the last so many positions, or their indices; 0 is all
        skip_logits: bool | None = None,  # null: while training with labels
        reduction: Literal["mean", "none"] = "mean",
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """Logits (b, t, vocab_size) and, with labels or an already shifted `shift_labels`, the loss. Losses are summed
        and divided by `num_items_in_batch` where that is given, else averaged.

        With `skip_logits` the loss comes straight from the hidden states and logits are None: they would be the
        largest tensor of a training step. `reduction="none"`, for evaluation, does that too and gives each position's
        loss, (b, t) in nats, 0 where there is no label.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        loss = logits = None
        shift_labels = kwargs.get("shift_labels")
        has_labels = labels is not None or shift_labels is not None
        if skip_logits is None:
            skip_logits = self.training and has_labels and self._head_can_be_fused()
        if has_labels and (skip_logits or reduction == "none"):
            if shift_labels is None:
                shift_labels = F.pad(labels[:, 1:], (0, 1), value=-100)  # type: ignore[index]
            loss = self._fused_loss(
                outputs.last_hidden_state, shift_labels, reduction, kwargs.get("num_items_in_batch")
            )
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(outputs.last_hidden_state[:, kept])
            if (cap := self.config.final_logit_softcapping) is not None:
                logits = cap * torch.tanh(logits.float() / cap)
            if has_labels:
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _head_can_be_fused(self) -> bool:
        """Whether head and loss are the plain ones, so that skipping the head's own forward changes nothing: no
        adapter, no hook (tensor parallelism, ZeRO-3), no loss function of the user's."""
        head = self.lm_head
        is_plain = type(head) is nn.Linear and not (head._forward_hooks or head._forward_pre_hooks)
        return (is_plain or self.head_is_sharded) and self.loss_function is ForCausalLMLoss

    def _fused_loss(
        self,
        hidden_states: torch.Tensor,  # (b, t, hidden_size)
        shift_labels: torch.Tensor,  # (b, t)
        reduction: str,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """The loss without logits: one number, or with reduction "none" (b, t)."""
        flat, targets = hidden_states.flatten(0, 1), shift_labels.to(hidden_states.device).flatten()
        cap = self.config.final_logit_softcapping
        if reduction == "none":
            return token_losses(flat, self.lm_head.weight, targets, cap).view(shift_labels.shape)
        total = self.linear_cross_entropy(flat, self.lm_head.weight, targets, cap)
        return total / ((targets != -100).sum() if num_items_in_batch is None else num_items_in_batch)
