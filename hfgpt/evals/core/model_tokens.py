"""Prompts as the tokens of the model that is asked: one BOS, then the text; and how many tokens that model can see.
The model is named by what lm-eval hands every task, its `--model_args` and `--metadata`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from hfgpt.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


class ModelTokens:
    """Turns prompts into token ids, at most `max_length` of which the model sees at once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, bos_token_id: int | None = None):
        """Without `bos_token_id` a prompt begins with the tokenizer's BOS, or with its EOS where it has none, as in
        lm-eval. Raises UserError for a tokenizer with neither."""
        first = (bos_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
        known = [token_id for token_id in first if token_id is not None]
        if not known:
            raise UserError("The tokenizer has neither BOS nor EOS to begin CORE's prompts with: set prefix_token_id.")
        self.tokenizer, self.max_length, self.bos_token_id = tokenizer, max_length, known[0]
        # The prompts of a task may be tens of millions of tokens: one int for all tokens of an id, not one for each,
        # keeps them at 8 bytes a token.
        self._ids: dict[int, int] = {}

    def __call__(self, prompts: list[str]) -> list[list[int]]:
        sequences = self.tokenizer(prompts, add_special_tokens=False, verbose=False).input_ids
        the = self._ids.setdefault
        return [[the(token_id, token_id) for token_id in (self.bos_token_id, *sequence)] for sequence in sequences]


def model_tokens(metadata: Mapping[str, Any]) -> ModelTokens:
    """`metadata` has lm-eval's names: `tokenizer` (a name, a folder or a tokenizer itself) or `pretrained`, and where
    they are set `max_length`, `prefix_token_id`, `revision`, `subfolder` and `trust_remote_code`. A model in memory
    gives `tokenizer` and `max_length`. Raises UserError where they name no model."""
    tokenizer, max_length, pretrained = (metadata.get(key) for key in ("tokenizer", "max_length", "pretrained"))
    options = {key: metadata[key] for key in ("revision", "subfolder", "trust_remote_code") if key in metadata}
    if tokenizer is None or isinstance(tokenizer, str):
        tokenizer = _tokenizer(_named(tokenizer or pretrained, "pretrained or tokenizer"), **options)
    if max_length is None:
        from lm_eval.models.utils import resolve_max_length  # so that it is the length that lm-eval's model sees

        max_length = resolve_max_length(_config(_named(pretrained, "pretrained"), **options), tokenizer)
    prefix = metadata.get("prefix_token_id")
    return ModelTokens(tokenizer, int(max_length), None if prefix is None else int(prefix))


def _named(model: Any, keys: str) -> str:
    if not isinstance(model, str):
        raise UserError(f"CORE counts tokens, so it must know the model: give {keys} in the model's arguments.")
    return model


@lru_cache(maxsize=1)
def _tokenizer(name: str, **options) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer  # seconds

    return AutoTokenizer.from_pretrained(name, **options)


@lru_cache(maxsize=1)
def _config(name: str, **options) -> PretrainedConfig:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(name, **options)
