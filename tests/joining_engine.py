"""An engine that does to a model what vLLM's transformers backend does: it joins the new tokens of all requests into
one row, keeps the keys and values itself, and puts layers of its own in place of torch's."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

NAME = "vllm"  # under which the attention is registered with transformers


class EngineLinear(nn.Module):
    """A linear without torch's attributes: `in_features` and `out_features` are not there."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return F.linear(inputs, self.weight, self.bias)


class EngineEmbedding(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(input_ids, self.weight)


class EngineAttention:
    """Attention of one layer over the keys and values of each request; all it knows stands in the configuration."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        self.head_dim = config.head_dim
        self.window = config.sliding_window if config.layer_types[layer_idx] == "sliding_attention" else None
        self.lengths: dict[str, int] = {}  # of the row that comes next: new tokens of each request
        self.seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """All (tokens, heads x head_dim), as is what it returns."""
        outputs = []
        parts = (states.split(list(self.lengths.values())) for states in (query, key, value))
        for request, *new in zip(self.lengths, *parts, strict=True):
            queries, keys, values = (states.view(len(states), -1, self.head_dim).transpose(0, 1) for states in new)
            if request in self.seen:
                keys, values = (
                    torch.cat(pair, dim=1) for pair in zip(self.seen[request], (keys, values), strict=True)
                )
            self.seen[request] = (keys, values)
            columns = torch.arange(keys.shape[1])
            rows = columns[-queries.shape[1] :, None]
            mask = columns <= rows
            if self.window:
                mask &= columns > rows - self.window
            output = F.scaled_dot_product_attention(
                queries[None], keys[None], values[None], attn_mask=mask, scale=scaling, enable_gqa=True
            )
            outputs.append(output[0].transpose(0, 1).flatten(1))
        return torch.cat(outputs)


def engine_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    attention_instances: dict[int, EngineAttention] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What the model calls: states (1, heads, tokens, head_dim), and the engine's keyword passed down to here."""
    assert attention_mask is None and attention_instances is not None
    query, key, value = (states.transpose(1, 2)[0].flatten(1) for states in (query, key, value))
    return attention_instances[module.layer_idx](query, key, value, scaling), None  # type: ignore[index]


class JoiningEngine:
    """Serves the model in a folder."""

    def __init__(self, folder: Path) -> None:
        self.config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        self.config._attn_implementation = NAME
        weights = load_file(folder / "model.safetensors")
        self.model = AutoModel.from_config(self.config, trust_remote_code=True, dtype=torch.float32).eval()
        base = {name.removeprefix("model."): value for name, value in weights.items() if name != "lm_head.weight"}
        self.model.load_state_dict(base)
        self.head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
        for parent in list(self.model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(parent, name, EngineLinear(child))
        self.model.set_input_embeddings(EngineEmbedding(weights["model.embed_tokens.weight"]))
        self.attention = {layer: EngineAttention(self.config, layer) for layer in range(self.config.num_hidden_layers)}
        self.positions: dict[str, int] = {}

    @torch.no_grad()
    def step(self, new: dict[str, list[int]]) -> dict[str, torch.Tensor]:
        """Logits (vocab_size,) after the last of each request's new tokens."""
        lengths = {request: len(tokens) for request, tokens in new.items()}
        for attention in self.attention.values():
            attention.lengths = lengths
        starts = [self.positions.get(request, 0) for request in new]
        positions = [start + n for start, length in zip(starts, lengths.values(), strict=True) for n in range(length)]
        self.positions |= {request: start + len(new[request]) for request, start in zip(new, starts, strict=True)}
        outputs = self.model(
            input_ids=torch.tensor([[token for tokens in new.values() for token in tokens]]),
            inputs_embeds=None,
            use_cache=False,
            position_ids=torch.tensor([positions]),
            attention_instances=self.attention,
            return_dict=False,
        )
        ends = torch.tensor(list(lengths.values())).cumsum(0) - 1
        logits = F.linear(outputs[0][0, ends], self.head)
        if cap := self.config.final_logit_softcapping:
            logits = cap * torch.tanh(logits / cap)
        return dict(zip(new, logits, strict=True))
