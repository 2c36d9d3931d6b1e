"""nanochat's checkpoints, laid out by hand, and its forward pass in each of its forms, written out as its own gpt.py
has it: the sense of rotation, norms after it, the window that counts the tokens to the left. And its tokenizer."""

import json
from pathlib import Path

import tiktoken
import torch
from tokenizers import pre_tokenizers, trainers
from torch.nn import functional as F

from hfgpt.data.bpe_translation import byte_of_character
from hfgpt.data.tokenizer import bpe_that_splits_by

CONFIG = {"sequence_len": 512, "vocab_size": 270, "n_layer": 4, "n_head": 4, "n_kv_head": 2, "n_embd": 32}
PADDED_VOCABULARY = 320  # to a multiple of 64
# Base of the rotary positions, factor of queries and keys, short window at a context of 512.
CONSTANTS = {"first": (10_000, 1.0, 256), "value gates": (100_000, 1.15, 256), "smeared": (100_000, 1.2, 128)}
# Of nanochat's tokenizer.py.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
SPECIAL_TOKENS = [
    f"<|{role}_{side}|>" for role in ("user", "assistant", "python", "output") for side in ("start", "end")
]
SPECIAL_TOKENS = ["<|bos|>", *SPECIAL_TOKENS]


def state_of(form: str, windows: bool = True) -> dict[str, torch.Tensor]:
    """Random parameters under nanochat's names; `windows` and with them scalars came to the first form in 2026."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int, std: float = 0.2) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * std

    width, kv_width = CONFIG["n_embd"], CONFIG["n_embd"] // CONFIG["n_head"] * CONFIG["n_kv_head"]
    state = {"transformer.wte.weight": draw(PADDED_VOCABULARY, width, std=0.8)}
    for layer in range(CONFIG["n_layer"]):
        block = f"transformer.h.{layer}"
        state[f"{block}.attn.c_q.weight"] = draw(width, width)
        state[f"{block}.attn.c_k.weight"] = draw(kv_width, width)
        state[f"{block}.attn.c_v.weight"] = draw(kv_width, width)
        state[f"{block}.attn.c_proj.weight"] = draw(width, width)
        state[f"{block}.mlp.c_fc.weight"] = draw(4 * width, width)
        state[f"{block}.mlp.c_proj.weight"] = draw(width, 4 * width)
        if form != "first" and layer % 2 == 1:
            state[f"{block}.attn.ve_gate.weight"] = draw(CONFIG["n_kv_head"], 12)
            state[f"value_embeds.{layer}.weight"] = draw(PADDED_VOCABULARY, kv_width)
    state["lm_head.weight"] = draw(PADDED_VOCABULARY, width)
    if form != "first" or windows:
        state["resid_lambdas"] = 1 + draw(CONFIG["n_layer"])
        state["x0_lambdas"] = draw(CONFIG["n_layer"])
    if form == "smeared":
        state |= {"smear_gate.weight": draw(1, 24), "smear_lambda": draw(1), "backout_lambda": draw(1)}
    return state


def write_checkpoint(folder: Path, state: dict[str, torch.Tensor], step: int = 100, **config) -> Path:
    """model_*.pt and meta_*.json as nanochat writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / f"model_{step:06d}.pt")
    (folder / f"meta_{step:06d}.json").write_text(json.dumps({"step": step, "model_config": CONFIG | config}))
    return folder


def logits_of(state: dict[str, torch.Tensor], form: str, input_ids: torch.Tensor, pattern: str) -> torch.Tensor:
    """(batch, tokens, vocab_size) in float32."""
    theta, sharpness, short = CONSTANTS[form]
    heads, kv_heads, layers = CONFIG["n_head"], CONFIG["n_kv_head"], CONFIG["n_layer"]
    length, d = input_ids.shape[1], CONFIG["n_embd"] // heads
    angles = torch.outer(torch.arange(length).float(), theta ** -(torch.arange(0, d, 2) / d))[None, :, None, :]
    left = torch.arange(length)[:, None] - torch.arange(length)[None, :]  # tokens from a key to its query

    def norm(x):
        return F.rms_norm(x, (x.shape[-1],))

    def rotated(x):
        a, b = x.chunk(2, dim=-1)
        return norm(torch.cat((a * angles.cos() + b * angles.sin(), b * angles.cos() - a * angles.sin()), -1))

    x = norm(state["transformer.wte.weight"][input_ids])
    if form == "smeared":
        gate = state["smear_lambda"] * torch.sigmoid(x[:, 1:, :24] @ state["smear_gate.weight"].T)
        x = torch.cat((x[:, :1], x[:, 1:] + gate * x[:, :-1]), dim=1)
    start, half = x, x
    for layer in range(layers):
        block = {
            name.removeprefix(f"transformer.h.{layer}."): tensor
            for name, tensor in state.items()
            if name.startswith(f"transformer.h.{layer}.")
        }
        if "resid_lambdas" in state:
            x = state["resid_lambdas"][layer] * x + state["x0_lambdas"][layer] * start
        inner = norm(x)
        q = rotated((inner @ block["attn.c_q.weight"].T).view(*inner.shape[:2], heads, d)) * sharpness
        k = rotated((inner @ block["attn.c_k.weight"].T).view(*inner.shape[:2], kv_heads, d)) * sharpness
        v = (inner @ block["attn.c_v.weight"].T).view(*inner.shape[:2], kv_heads, d)
        if "attn.ve_gate.weight" in block:
            gate = 3 * torch.sigmoid(inner[..., :12] @ block["attn.ve_gate.weight"].T)
            v = v + gate[..., None] * state[f"value_embeds.{layer}.weight"][input_ids].view(v.shape)
        window = short if pattern[layer % len(pattern)] == "S" and layer < layers - 1 else length
        seen = (left >= 0) & (left <= window)
        k, v = (t.repeat_interleave(heads // kv_heads, dim=2) for t in (k, v))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / d**0.5
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        x = x + torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2) @ block["attn.c_proj.weight"].T
        inner = norm(x) @ block["mlp.c_fc.weight"].T
        x = x + inner.relu().square() @ block["mlp.c_proj.weight"].T
        half = x if layer == layers // 2 else half
    if form == "smeared":
        x = x - state["backout_lambda"] * half
    logits = norm(x) @ state["lm_head.weight"][: CONFIG["vocab_size"]].T
    return 15 * torch.tanh(logits / 15)


def encoding_of(texts, vocab_size: int) -> tiktoken.Encoding:
    """What nanochat trains: byte-level BPE, then its nine special tokens."""
    backend = bpe_that_splits_by(SPLIT_PATTERN)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 9, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    byte_of = byte_of_character()
    merged = [
        bytes(byte_of[c] for c in left + right) for left, right in json.loads(backend.to_str())["model"]["merges"]
    ]
    ranks = {bytes([byte]): byte for byte in range(256)}
    for token in merged:
        ranks.setdefault(token, len(ranks))
    special = {token: len(ranks) + n for n, token in enumerate(SPECIAL_TOKENS)}
    return tiktoken.Encoding("rustbpe", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=special)
