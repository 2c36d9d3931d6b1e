"""nanochat as a side: its model, optimizer and engine, imported from a checkout of its repository and run with the
defaults of its scripts/base_train.py (July 2026)."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

from hfgpt.bench.sides import Decode, Trained
from hfgpt.bench.turns import Turns
from hfgpt.bench.workload import Workload
from hfgpt.errors import UserError

NO_TOKEN = -1


def train_nanochat(workload: Workload, turns: Turns, checkout: Path) -> Trained:
    """The recipe's depth, width, heads, vocabulary, context and batch in nanochat's own loop: compiled, Muon with
    AdamW, no clipping, no masks between documents."""
    if not (checkout / "nanochat" / "gpt.py").is_file():
        raise UserError(f"--nanochat {checkout} is not a checkout of nanochat: it has no nanochat/gpt.py.")
    sys.path.insert(0, str(checkout))
    try:
        from nanochat.common import COMPUTE_DTYPE
        from nanochat.flash_attention import USE_FA3
        from nanochat.gpt import GPT, GPTConfig
    except ImportError as error:
        raise UserError(f"nanochat in {checkout} cannot be imported here: {error}.") from None

    a, batch, device = workload.architecture, workload.plan.batch, workload.device
    # Windows are slow without FlashAttention 3, where nanochat itself advises full attention.
    window_pattern = "SSSL" if USE_FA3 else "L"
    with torch.device("meta"):
        config = GPTConfig(
            sequence_len=batch.max_length,
            vocab_size=a["vocab_size"],
            n_layer=a["num_hidden_layers"],
            n_head=a["num_attention_heads"],
            n_kv_head=a["num_key_value_heads"],
            n_embd=a["hidden_size"],
            window_pattern=window_pattern,
        )
        model = GPT(config)
    model.to_empty(device=device)
    model.init_weights()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # as its compute_init
    optimizer = model.setup_optimizer(
        unembedding_lr=0.008, embedding_lr=0.3, scalar_lr=0.5, matrix_lr=0.02, weight_decay=0.28
    )
    forward = torch.compile(model, dynamic=False)
    rows, size = workload.rows(), batch.per_device_batch_size
    ids = torch.from_numpy(rows.rows).to(device)
    position = 0
    model.train()
    going = turns.start()
    while going:
        for _ in range(batch.grad_accum_steps):
            inputs = ids[torch.arange(position, position + size, device=device) % len(ids)]
            targets = inputs.roll(-1, dims=1)
            targets[:, -1] = -1
            (forward(inputs, targets) / batch.grad_accum_steps).backward()
            position += size
        optimizer.step()
        model.zero_grad(set_to_none=True)
        going = turns.step_done()
    model.eval()
    about = {
        "model": f"nanochat, windows {window_pattern}, {str(COMPUTE_DTYPE).removeprefix('torch.')}",
        "optimizer": type(optimizer).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "compiled": True,
        "attention": "flash_attention_3" if USE_FA3 else "sdpa",
    }
    return Trained(model.estimate_flops(), about, _decoding(model))


class _NoTools:
    """A tokenizer whose special tokens never come: rows go on to the last token, as the other sides' do."""

    def encode_special(self, name: str) -> int:
        return NO_TOKEN

    def get_bos_token_id(self) -> int:
        return NO_TOKEN


def _decoding(model: torch.nn.Module) -> Decode | None:
    """Greedy decoding by nanochat's engine, which continues one prompt many times; None where it cannot be imported.

    The engine's imports lead to rustbpe, which trains tokenizers and has no part in decoding: where it is not
    installed an empty module stands in.
    """
    if importlib.util.find_spec("rustbpe") is None:
        sys.modules["rustbpe"] = ModuleType("rustbpe")
    try:
        from nanochat.engine import Engine
    except ImportError as error:
        print(f"nanochat's engine cannot be imported here, so its decoding is left out: {error}", file=sys.stderr)
        return None
    engine = Engine(model, _NoTools())

    def decode(prompts: list[list[int]], new_tokens: int) -> object:
        made = engine.generate(prompts[0], num_samples=len(prompts), max_tokens=new_tokens, temperature=0.0)
        return [column for column, _ in made]

    return decode
