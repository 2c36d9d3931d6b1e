"""Model folders on both sides of a conversion: read whole or not at all, written whole or not at all."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from hfgpt.data.tokenizer import load_tokenizer
from hfgpt.errors import UserError
from hfgpt.model.loading import load_whole


def load_float32(name_or_path: str) -> tuple[PreTrainedModel, torch.dtype]:
    """The model in float32, and the dtype that it is saved in. Raises UserError where it cannot be read, is quantized,
    lacks weights or has adapters; no code that comes with it is run."""
    if (Path(name_or_path) / "adapter_config.json").is_file():
        raise UserError(f"{name_or_path} holds LoRA weights: merge them into their model first.")
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # its tables of missing weights: one sentence says it
    model = load_whole(name_or_path, dtype="auto", trust_remote_code=False, ignore_mismatched_sizes=True)
    if "quantization_config" in model.config.to_dict():
        raise UserError(f"the weights of {name_or_path} are quantized: name the model that was quantized.")
    dtype = model.dtype
    return model.float().eval(), dtype


def load_own_tokenizer(name_or_path: str, vocab_size: int) -> PreTrainedTokenizerFast:
    """The tokenizer as it is, in the form that is all in its tokenizer.json: what it does then no longer depends on a
    class of transformers. Raises UserError where there is none or it has more tokens than the model."""
    tokenizer = load_tokenizer(name_or_path, add_chat_tokens=False)
    if len(tokenizer) > vocab_size:
        raise UserError(
            f"the tokenizer in {name_or_path} has {len(tokenizer):,} tokens but the model {vocab_size:,}: they do not "
            "belong together."
        )
    special: dict[str, Any] = tokenizer.special_tokens_map
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        **{name: token for name, token in special.items() if name.endswith("_token")},
        extra_special_tokens=tokenizer.extra_special_tokens,
        chat_template=tokenizer.chat_template,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
    )


def write_whole(output_dir: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Save both to `output_dir`, which has no file in it before all of them are there."""
    output_dir = output_dir.absolute()
    aside = output_dir.with_name(output_dir.name + ".being-written")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        if output_dir.is_dir():
            output_dir.rmdir()
        aside.rename(output_dir)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{output_dir} cannot be written: {error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
