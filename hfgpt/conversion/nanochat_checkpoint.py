"""Checkpoints that nanochat itself writes: model_*.pt, meta_*.json and a tokenizer.pkl. nanochat's constants are in
its code and not in its files, so the parameters that a checkpoint has tell which form of the code wrote it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

from hfgpt.conversion.conversion import own_config, with_weights
from hfgpt.conversion.folders import load_own_tokenizer
from hfgpt.conversion.nanochat import rotated_the_other_way
from hfgpt.conversion.nanochat_tokenizer import read_tokenizer
from hfgpt.conversion.native import State
from hfgpt.errors import UserError
from hfgpt.model import GPTConfig, GPTForCausalLM
from hfgpt.model.modeling_gpt import VALUE_GATE_CHANNELS

MODEL_FILE = re.compile(r"model_(\d+)\.pt")
BASE_FOLDER = "base_checkpoints"  # where nanochat keeps its base models
SHAPE_KEYS = ("sequence_len", "n_layer", "n_embd", "n_head", "n_kv_head", "vocab_size")
# Of one layer, and of the whole model.
INNER = {
    "attn.c_q.weight": "self_attn.q_proj.weight",
    "attn.c_k.weight": "self_attn.k_proj.weight",
    "attn.c_v.weight": "self_attn.v_proj.weight",
    "attn.c_proj.weight": "self_attn.o_proj.weight",
    "attn.ve_gate.weight": "self_attn.value_gate.weight",
    "mlp.c_fc.weight": "mlp.up_proj.weight",
    "mlp.c_proj.weight": "mlp.down_proj.weight",
}
VOCABULARY = {"transformer.wte.weight": "model.embed_tokens.weight", "lm_head.weight": "lm_head.weight"}
OUTER = {
    "smear_gate.weight": "model.smear.gate.weight",
    "smear_lambda": "model.smear.scalar",
    "backout_lambda": "model.backout_scalar",
}
SCALARS = {"resid_lambdas": "residual_scalar", "x0_lambdas": "embedding_scalar"}


@dataclass(frozen=True)
class Form:
    """The constants of nanochat's gpt.py at one time: base of the rotary positions, factor of queries and of keys, and
    what of the context a short window sees (divisor, rounded up to multiples of)."""

    rope_theta: float
    sharpness: float
    window_divisor: int
    window_multiple: int


FIRST = Form(10_000.0, 1.0, 2, 1)  # from 13 October 2025; with windows and scalars from 11 January 2026
VALUE_GATES = Form(100_000.0, 1.15, 3, 128)  # from 9 March 2026, commit 6ed7d1d
SMEARED = Form(100_000.0, 1.2, 4, 128)  # from 14 March 2026, commit a825e63


def find_checkpoint(source: Path) -> Path | None:
    """The newest model_*.pt of nanochat in a folder, or the very file; None where there is none."""
    if source.is_file() and MODEL_FILE.fullmatch(source.name):
        return source
    found = [path for path in source.glob("model_*.pt") if MODEL_FILE.fullmatch(path.name)]
    return max(found, key=_step, default=None)


def import_checkpoint(
    path: Path, tokenizer: str | None, is_base: bool | None = None
) -> tuple[GPTForCausalLM, PreTrainedTokenizerFast, str]:
    """The checkpoint as our model in float32, its tokenizer, and whether it was taken for a base or a chat model, in
    words; `is_base` None goes by its path. Raises UserError naming what cannot be read or has no switch. Nothing that
    the files could hold is run: tensors, JSON and a table of bytes are read."""
    meta, state = _read_meta(path), _read_state(path)
    form = form_of(state, path)
    config = own_config(switches_of(meta["model_config"], state, form, path), str(_meta_file(path)))
    model = with_weights(config, to_ours(state, config, path))
    if tokenizer is not None:
        made = load_own_tokenizer(tokenizer, config.vocab_size)
    else:
        made = read_tokenizer(_tokenizer_file(path), config.vocab_size)
    return model, made, _agree_on_tokens(model, made, path, is_base)


def form_of(state: State, path: Path) -> Form:
    """Which form of nanochat wrote these parameters. Raises UserError for one that our switches cannot express."""
    gates = [tensor for name, tensor in state.items() if name.endswith("attn.ve_gate.weight")]
    if gates and gates[0].shape[1] != VALUE_GATE_CHANNELS:
        raise UserError(
            f"{path} has value gates of {gates[0].shape[1]} channels, as nanochat had from January to March 2026, "
            f"which value_embeddings of hfgpt (gates of {VALUE_GATE_CHANNELS}) cannot express."
        )
    if "smear_lambda" in state:
        return SMEARED
    return VALUE_GATES if gates else FIRST


def switches_of(model_config: dict[str, Any], state: State, form: Form, path: Path) -> dict[str, Any]:
    """Our architecture keys for nanochat's `model_config`. Raises UserError for a key that is missing or wrong."""
    for key in SHAPE_KEYS:
        value = model_config.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(
                f"model_config in {_meta_file(path)} has {key} {value!r}: it is no checkpoint of nanochat."
            )
    context, layers, hidden_size, heads, key_value_heads, vocab_size = (model_config[key] for key in SHAPE_KEYS)
    # Before January 2026 there was no such key: every layer saw the whole context. The last always does.
    pattern = str(model_config.get("window_pattern", "L")).upper()
    if not re.fullmatch("[SL]+", pattern):
        raise UserError(f"model_config in {_meta_file(path)} has window_pattern {pattern!r}, which is not S and L.")
    left = -(-context // form.window_divisor // form.window_multiple) * form.window_multiple
    short = [pattern[layer % len(pattern)] == "S" and left < context for layer in range(layers - 1)] + [False]
    return {
        "vocab_size": vocab_size,
        "max_position_embeddings": context,
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "position_embedding_type": "rope",
        "rope_theta": form.rope_theta,
        "norm_type": "rmsnorm",
        "norm_weight": False,
        "norm_eps": torch.finfo(torch.float32).eps,  # what F.rms_norm takes where none is given
        "embedding_norm": True,
        "qk_norm": True,
        "attention_multiplier": form.sharpness**2 / (hidden_size // heads) ** 0.5,
        "mlp_type": "relu2",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "final_logit_softcapping": 15.0,
        # nanochat's window counts the tokens to the left of the current one, ours counts that one too.
        "sliding_window": left + 1 if any(short) else None,
        "layer_types": ["sliding_attention" if is_short else "full_attention" for is_short in short],
        "value_embeddings": any(name.startswith("value_embeds.") for name in state),
        "residual_scalars": "resid_lambdas" in state,
        "smear": "smear_lambda" in state,
        "backout": "backout_lambda" in state,
        "init_scheme": "depth",
    }


def to_ours(state: State, config: GPTConfig, path: Path) -> State:
    """Our parameters from nanochat's, without the rows that pad its vocabulary to a multiple of 64. Raises UserError
    for a parameter that we do not know, a shape that the configuration does not give, or one that is missing."""
    ours: State = {}
    for name, tensor in state.items():
        word, *rest = name.split(".")
        if name in VOCABULARY:
            ours[VOCABULARY[name]] = tensor[: config.vocab_size].clone()
        elif name in OUTER:
            ours[OUTER[name]] = tensor
        elif name in SCALARS:
            for layer, scalar in enumerate(tensor):
                ours[f"model.layers.{layer}.{SCALARS[name]}"] = scalar.reshape(1).clone()
        elif word == "value_embeds":
            ours[f"model.layers.{rest[0]}.self_attn.value_embed.weight"] = tensor[: config.vocab_size].clone()
        elif name.startswith("transformer.h.") and ".".join(rest[2:]) in INNER:
            ours[f"model.layers.{rest[1]}.{INNER['.'.join(rest[2:])]}"] = tensor
        else:
            raise UserError(f"{path} has a parameter {name}, which no form of nanochat that hfgpt knows has.")
    _check_shapes(ours, config, path)
    return rotated_the_other_way(ours, config)


def _check_shapes(state: State, config: GPTConfig, path: Path) -> None:
    with torch.device("meta"):
        wanted = GPTForCausalLM(config).state_dict()
    for name in sorted(wanted.keys() | state.keys()):
        have, want = (tuple(one[name].shape) if name in one else None for one in (state, wanted))
        if have != want:
            raise UserError(f"{path} and {_meta_file(path).name} do not fit: {name} is {have}, and should be {want}.")


def _read_meta(path: Path) -> dict[str, Any]:
    file = _meta_file(path)
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} needs {file.name} beside it, which holds the model's shape.") from None
    except ValueError as error:
        raise UserError(f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("model_config"), dict):
        raise UserError(f"{file} has no model_config: it is no checkpoint of nanochat.")
    return meta


def _read_state(path: Path) -> State:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of zipfile, pickle and torch, for a file that is cut or is something else
        raise UserError(f"{path} cannot be read as tensors: {str(error).strip().splitlines()[0]}") from None
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise UserError(f"{path} holds something else than parameters by name: it is no checkpoint of nanochat.")
    # A compiled model's names have a word in front.
    return {name.removeprefix("_orig_mod."): tensor.float() for name, tensor in state.items()}


def _tokenizer_file(path: Path) -> Path:
    """nanochat keeps one tokenizer for all its checkpoints: BASE/base_checkpoints/d20/model_*.pt, BASE/tokenizer."""
    folder = path.resolve().parent
    places = (folder, folder / "tokenizer", folder.parent / "tokenizer", folder.parent.parent / "tokenizer")
    for place in places:
        if (place / "tokenizer.pkl").is_file():
            return place / "tokenizer.pkl"
    raise UserError(f"there is no tokenizer.pkl beside {path} nor in ../../tokenizer: name its folder by --tokenizer.")


def _agree_on_tokens(
    model: GPTForCausalLM, tokenizer: PreTrainedTokenizerFast, path: Path, is_base: bool | None
) -> str:
    """A chat model of nanochat stops where its turn ends, a base model where the next document begins, too. Which of
    them it is, in words."""
    bos, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    if bos is None or end is None:
        return "whose tokenizer names no token to stop at"
    has_base_folder = BASE_FOLDER in path.resolve().parts
    kind, other = ("base", "chat") if (has_base_folder if is_base is None else is_base) else ("chat", "base")
    model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id = bos, end, pad
    stop = [bos, end] if kind == "base" else end
    model.generation_config = GenerationConfig(bos_token_id=bos, eos_token_id=stop, pad_token_id=pad)
    if is_base is not None:
        return f"a {kind} model"
    reason = BASE_FOLDER if has_base_folder else f"no {BASE_FOLDER}"
    return f"taken for a {kind} model, as there is {reason} in its path (--{other} says otherwise)"


def _meta_file(path: Path) -> Path:
    return path.with_name(f"meta_{path.stem.removeprefix('model_')}.json")


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("model_"))
