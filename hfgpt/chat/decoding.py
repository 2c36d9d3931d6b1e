"""What the engine asks of a model: read prompts once, then give logits token by token. And the decoder that works for
every causal language model of transformers, over the model's own forward and cache."""

import inspect
from typing import Any, Protocol

import torch
from transformers import Cache, PreTrainedModel


class Decoding(Protocol):
    """A batch of rows that is being decoded."""

    logits: torch.Tensor  # of each row's next token, (rows, vocab_size), float32

    def append(self, tokens: torch.Tensor) -> None:
        """Give each row its next token, (rows,), and compute `logits` anew."""

    def select(self, rows: list[int]) -> None:
        """Go on with fewer rows: row i becomes what rows[i] is, which is i or stood behind the rows that stay."""


class Decoder(Protocol):
    """A model, ready to decode. Any number of decodings may go on at the same time."""

    def begin(self, prompts: list[list[int]], max_new_tokens: int) -> Decoding:
        """Read the prompts; at most `max_new_tokens` tokens will be appended to any row."""


class TransformersDecoder:
    """Decodes by a model's own forward, with transformers' cache, as `generate` does. Puts the model in eval mode."""

    def __init__(self, model: PreTrainedModel, pad_token_id: int) -> None:
        self.model = model.eval()
        self.pad_token_id = pad_token_id

    def begin(self, prompts: list[list[int]], max_new_tokens: int) -> "TransformersDecoding":
        return TransformersDecoding(self.model, *left_padded(prompts, self.pad_token_id, self.model.device))


class TransformersDecoding:
    """`inputs` are the keywords that transformers' own generation loop carries from step to step."""

    def __init__(self, model: PreTrainedModel, tokens: torch.Tensor, attention_mask: torch.Tensor) -> None:
        self.model = model
        self.inputs: dict[str, Any] = {"attention_mask": attention_mask, "use_cache": True}
        if "position_ids" in inspect.signature(model.forward).parameters:  # BLOOM and others have none
            self.inputs["position_ids"] = (attention_mask.cumsum(-1) - 1).clamp_(min=0)
        self._forward(tokens, is_first_iteration=True)

    def append(self, tokens: torch.Tensor) -> None:
        self._forward(tokens.unsqueeze(1), is_first_iteration=False)

    def select(self, rows: list[int]) -> None:
        for name, value in self.inputs.items():
            if isinstance(value, torch.Tensor):
                self.inputs[name] = value[rows]
            elif isinstance(value, Cache):
                value.reorder_cache(torch.LongTensor(rows))

    @torch.inference_mode()
    def _forward(self, tokens: torch.Tensor, is_first_iteration: bool) -> None:
        model: Any = self.model  # a class of its own and GenerationMixin
        inputs = model.prepare_inputs_for_generation(tokens, is_first_iteration=is_first_iteration, **self.inputs)
        outputs = model(**inputs, return_dict=True)
        self.inputs = model._update_model_kwargs_for_generation(outputs, self.inputs)
        self.logits = outputs.logits[:, -1].float()


def left_padded(
    prompts: list[list[int]], pad_token_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (rows, longest), with padding before the shorter prompts."""
    longest = max(map(len, prompts))
    tokens = [[pad_token_id] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)
