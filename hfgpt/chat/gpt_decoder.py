"""The decoder for our own models: the cache is allocated once, and a token costs few operations and little Python."""

from functools import partial
from typing import TypeGuard

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from hfgpt.chat.decoding import left_padded
from hfgpt.chat.gpt_layers import Columns, DecodingLayer, frozen_norm, joined
from hfgpt.model import GPTForCausalLM, modeling_gpt  # registers with the Auto classes
from hfgpt.training.onednn import OneDNNLinear

# What GPTDecoder knows how to lay out. LoRA, quantisation and sharding put other classes in their place.
KNOWN_MODULES = {
    GPTForCausalLM,
    modeling_gpt.GPTModel,
    modeling_gpt.GPTDecoderLayer,
    modeling_gpt.GPTAttention,
    modeling_gpt.GPTMLP,
    modeling_gpt.GPTNorm,
    modeling_gpt.GPTBigramEmbedding,
    modeling_gpt.GPTSmear,
    modeling_gpt.GPTKANLinear,
    modeling_gpt.GPTRotaryEmbedding,
    nn.ModuleList,
    nn.Embedding,
    nn.Linear,
    OneDNNLinear,  # a model in training
    nn.Dropout,
}
Cache = tuple[torch.Tensor, torch.Tensor]  # keys and values of a layer, (b, k, capacity, d)


class GPTDecoder:
    """The weights of a GPTForCausalLM as they are now, laid out for decoding: the logits are the model's up to
    rounding. On a CPU the matrices are in memory a second time. `compile` has torch.compile fuse a token's step."""

    @torch.no_grad()
    def __init__(self, model: GPTForCausalLM, compile: bool = False) -> None:
        config, base = model.config, model.model
        self.device, self.dtype = model.device, model.dtype
        self.token_table = base.embed_tokens.weight
        self.position_table = None if base.embed_positions is None else base.embed_positions.weight
        self.bigram_table = None if base.embed_bigrams is None else base.embed_bigrams.table.weight
        self.smear, self.backout_scalar = base.smear, base.backout_scalar
        self.embedding_norm = None if base.embedding_norm is None else frozen_norm(base.embedding_norm)
        join = partial(joined, packs=not compile)
        self.layers = [DecodingLayer(layer, join) for layer in base.layers]
        self.windows = {layer.window for layer in self.layers}
        self.norm, self.head = frozen_norm(base.norm), join([model.lm_head])
        cap = config.final_logit_softcapping
        self.cap = None if cap is None else torch.tensor(cap, device=self.device)
        self.key_value_shape = (config.num_key_value_heads, config.head_dim)
        self.rotary_tables: tuple[torch.Tensor, torch.Tensor] | None = None
        if base.rotary_emb is not None:
            everywhere = torch.arange(config.max_position_embeddings, device=self.device)
            cos, sin = base.rotary_emb(self.token_table, everywhere)  # (positions, d / 2)
            self.rotary_tables = (torch.cat((cos, cos), -1).unsqueeze(1), torch.cat((-sin, sin), -1).unsqueeze(1))
        # Compiles at the first token of a batch of one, of several rows, and of rows of different lengths.
        self.step = torch.compile(self.forward, dynamic=True) if compile else self.forward

    def begin(self, prompts: list[list[int]], max_new_tokens: int) -> "GPTDecoding":
        return GPTDecoding(self, prompts, max_new_tokens)

    def forward(
        self,
        tokens: torch.Tensor,
        previous: torch.Tensor,
        positions: slice | torch.Tensor,
        caches: list[Cache],
        columns: Columns,
    ) -> torch.Tensor:
        """Logits (b, vocab_size), float32, after the last of the tokens (b, t); `previous` are the tokens before them,
        -1 where there is none. Positions are the same in all rows (a slice) or each row's own (b, t)."""
        hidden_states = F.embedding(tokens, self.token_table)
        if self.bigram_table is not None:
            rows = modeling_gpt.bigram_rows(tokens, previous, len(self.bigram_table))
            hidden_states = hidden_states + F.embedding(rows, self.bigram_table)
        if self.embedding_norm is not None:
            hidden_states = self.embedding_norm(hidden_states)
        if self.smear is not None:
            before = F.embedding(previous.clamp(min=0), self.token_table)
            before = before if self.embedding_norm is None else self.embedding_norm(before)
            hidden_states = self.smear(hidden_states, before, previous >= 0)
        if self.position_table is not None:
            hidden_states = hidden_states + self.position_table[positions]
        rotary = None
        if self.rotary_tables is not None:
            rotary = (self.rotary_tables[0][positions], self.rotary_tables[1][positions])
        embedding = hidden_states = hidden_states.flatten(0, 1)  # (b t, hidden_size)
        half_depth_states = hidden_states
        for layer_idx, (layer, cache) in enumerate(zip(self.layers, caches, strict=True)):
            hidden_states = layer(hidden_states, embedding, tokens, rotary, cache, columns)
            if layer_idx == len(self.layers) // 2:
                half_depth_states = hidden_states
        if self.backout_scalar is not None:
            hidden_states = hidden_states - self.backout_scalar * half_depth_states
        last = hidden_states.view(*tokens.shape, -1)[:, -1]
        logits = self.head(self.norm(last)).float()
        return logits if self.cap is None else (logits / self.cap).tanh_().mul_(self.cap)


class GPTDecoding:
    """Rows under way. Shorter prompts are padded at their left, so that a step fills the same column in all rows."""

    logits: torch.Tensor

    @torch.inference_mode()
    def __init__(self, decoder: GPTDecoder, prompts: list[list[int]], max_new_tokens: int) -> None:
        self.decoder = decoder
        distinct = list(dict.fromkeys(map(tuple, prompts)))  # equal prompts are read once
        tokens, _ = left_padded([list(prompt) for prompt in distinct], 0, decoder.device)
        longest = tokens.shape[1]
        heads, head_dim = decoder.key_value_shape
        self.storage = torch.empty(  # layers, keys and values, rows, heads, columns, channels
            (len(decoder.layers), 2, len(distinct), heads, longest + max_new_tokens, head_dim),
            dtype=decoder.dtype,
            device=decoder.device,
        )
        self.length = 0  # columns filled
        self.newest = torch.full((len(distinct), 1), -1, device=decoder.device)  # each row's last token
        self._set_rows([longest - len(prompt) for prompt in distinct])
        self._forward(tokens)
        if len(distinct) < len(prompts):
            self._repeat([distinct.index(tuple(prompt)) for prompt in prompts])

    @torch.inference_mode()
    def append(self, tokens: torch.Tensor) -> None:
        self._forward(tokens.unsqueeze(1))

    @torch.inference_mode()
    def select(self, rows: list[int]) -> None:
        for new, old in enumerate(rows):
            if new != old:
                self.storage[:, :, new, :, : self.length] = self.storage[:, :, old, :, : self.length]
        self.newest = self.newest[rows]
        self._set_rows([self.paddings[row] for row in rows])

    def _repeat(self, rows: list[int]) -> None:
        """Row i becomes a copy of what rows[i] is."""
        few = self.storage
        self.storage = few.new_empty((*few.shape[:2], len(rows), *few.shape[3:]))
        self.storage[..., : self.length, :] = few[:, :, rows, :, : self.length]
        self.logits, self.newest = self.logits[rows], self.newest[rows]
        self._set_rows([self.paddings[row] for row in rows])

    def _set_rows(self, paddings: list[int]) -> None:
        """Go on with the first rows of the storage, which have these columns of padding before their first token."""
        self.paddings = paddings
        self.caches = [(layer[0, : len(paddings)], layer[1, : len(paddings)]) for layer in self.storage]
        self.first = min(paddings)
        self.starts = self.unpadded = None
        if max(paddings) > self.first:
            self.starts = torch.tensor(paddings, device=self.decoder.device).unsqueeze(1)  # (b, 1)
            columns = torch.arange(self.storage.shape[4], device=self.decoder.device)
            self.unpadded = (columns >= self.starts)[:, None, None]

    def _forward(self, tokens: torch.Tensor) -> None:
        past, end = self.length, self.length + tokens.shape[1]
        positions: slice | torch.Tensor = slice(past - self.first, end - self.first)
        if self.starts is not None:
            positions = (torch.arange(past, end, device=tokens.device) - self.starts).clamp_(min=0)
        masks = {window: self._prompt_mask(end, window) for window in self.decoder.windows} if past == 0 else {}
        columns = Columns(past, end, self.first, self.unpadded, masks)
        forward = self.decoder.forward if past == 0 else self.decoder.step
        previous = torch.cat((self.newest, tokens[:, :-1]), dim=1)
        if past == 0 and self.starts is not None:  # padding precedes no token
            previous = torch.where(torch.arange(end, device=tokens.device) > self.starts, previous, -1)
        self.logits = forward(tokens, previous, positions, self.caches, columns)
        self.length, self.newest = end, tokens[:, -1:]

    def _prompt_mask(self, length: int, window: int | None) -> torch.Tensor | None:
        """What each token of the prompts sees, (b or 1, 1, length, length); None where that is all before it."""
        if self.unpadded is None and (window is None or window >= length):
            return None
        query = torch.arange(length, device=self.decoder.device).unsqueeze(1)
        key = query.T
        visible = (key <= query) & (key > query - (window or length))
        if self.unpadded is None:
            return visible[None, None]
        # Padding sees itself: a softmax over nothing would be NaN.
        return (visible & self.unpadded[..., :length]) | (key == query)


def is_plain_gpt(model: PreTrainedModel) -> TypeGuard[GPTForCausalLM]:
    """Whether GPTDecoder can lay the model out: ours, on one device, nothing in it replaced."""
    tensors = [parameter.data for parameter in model.parameters()]
    return (
        {type(module) for module in model.modules()} <= KNOWN_MODULES
        and {type(tensor) for tensor in tensors} == {torch.Tensor}
        and len({tensor.device for tensor in tensors}) == 1
    )
