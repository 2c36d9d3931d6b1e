"""Between a model of transformers and ours, in memory: shapes, tensors, and the proof that both compute the same."""

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from hfgpt.conversion.gpt2 import GPT2Family
from hfgpt.conversion.llama import LlamaFamily, Qwen3Family
from hfgpt.conversion.nanochat import NanoChatFamily
from hfgpt.conversion.native import TOKEN_IDS, NativeFamily, State, fill_neutral
from hfgpt.errors import UserError
from hfgpt.model import GPTConfig, GPTForCausalLM

FAMILIES: dict[str, NativeFamily] = {
    family.name: family for family in (GPT2Family(), NanoChatFamily(), LlamaFamily(), Qwen3Family())
}
# Two orders of summation of one float32 model differ by less than a hundredth of this; another rope base, norm epsilon
# or window by far more. A window wider than LONGEST_PROOF is not tried: reading so far takes too long on a CPU.
LARGEST_DIFFERENCE = 1e-4  # of the largest logit
PROOF_TOKENS = 64
LONGEST_PROOF = 2048  # tokens


def imported(native: PreTrainedModel, family: NativeFamily) -> GPTForCausalLM:
    """Our model with the weights of `native`, which it may share. Raises UserError for what no switch expresses."""
    tokens = {key: value for key, value in native.config.to_dict().items() if key in TOKEN_IDS}
    config = own_config(family.switches_of(native.config) | tokens, native.config.name_or_path or "the model")
    ours = with_weights(config, family.to_ours(native.state_dict(), config))
    if native.generation_config is not None:
        ours.generation_config = native.generation_config
    return ours


def own_config(keys: dict[str, Any], name: str) -> GPTConfig:
    """Our configuration. Raises UserError, with `name` in it, for a shape that cannot exist."""
    try:
        return GPTConfig(**keys)
    except ValueError as error:
        raise UserError(f"{name} says a shape that hfgpt's models cannot have: {error}") from None


def with_weights(config: GPTConfig, state: State) -> GPTForCausalLM:
    """Our model of this shape around these very tensors, all of which must be there."""
    with no_init_weights():
        model = GPTForCausalLM(config)
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    return model.eval()


def exported(ours: GPTForCausalLM, family: NativeFamily) -> PreTrainedModel:
    """The model of transformers that computes what `ours` does; there must be no `obstacles`."""
    with no_init_weights():
        native = family.model_class(family.native_config(ours.config))
    state = family.to_native(ours.state_dict(), ours.config)
    native.load_state_dict(fill_neutral(state, native.state_dict()), strict=True, assign=True)
    native.tie_weights()
    if ours.generation_config is not None:
        native.generation_config = ours.generation_config
    return native.eval()


@torch.no_grad()
def largest_difference(one: PreTrainedModel, other: PreTrainedModel) -> float:
    """Of the two models' logits at the last PROOF_TOKENS of random tokens, as a share of the largest logit. There are
    more tokens than the wider of the two windows lets one see, as far as positions and LONGEST_PROOF allow."""
    config = one.config
    windows = [model.config.to_dict().get("sliding_window") or 0 for model in (one, other)]
    beyond = min(max(windows) + PROOF_TOKENS // 2, LONGEST_PROOF)
    shape = (2, min(max(PROOF_TOKENS, beyond), config.max_position_embeddings))
    input_ids = torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    first, second = (model(input_ids, use_cache=False, logits_to_keep=PROOF_TOKENS).logits for model in (one, other))
    return ((first - second).abs().max() / first.abs().max()).item()


def prove_equal(one: PreTrainedModel, other: PreTrainedModel) -> float:
    """The largest difference of the two models' logits. Raises UserError where they do not compute the same."""
    difference = largest_difference(one, other)
    if not difference <= LARGEST_DIFFERENCE:
        raise UserError(
            f"{type(other).__name__} would not compute what {type(one).__name__} does (logits differ by "
            f"{difference:.1e} of the largest): the configuration has a key that has no switch on the other side."
        )
    return difference
