"""Trains a model for a few steps in a process of its own and prints the growth of its peak memory as JSON:
python peak_memory.py '{"model": {...}, "vocab_size": ..., "max_length": ..., "rows": ..., "optimizer": ..., ...}'"""

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hfgpt.arguments import ModelArguments
from hfgpt.model import GPTConfig, GPTForCausalLM
from hfgpt.model.from_recipe import architecture_of
from hfgpt.training.hardware import keep_freed_memory
from hfgpt.training.onednn import onednn_is_faster
from hfgpt.training.optimizer import MuonAdamW, parameter_groups
from hfgpt.training.speed import multiply_by_onednn

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main(case: dict[str, Any]) -> None:
    device = torch.device(case.get("device", "cpu"))
    if case.get("keep_freed_memory"):
        keep_freed_memory()
    small = {"model": {"depth": 1}, "vocab_size": 64, "max_length": 32, "rows": 1, "optimizer": case["optimizer"]}
    train(case | small | {"passes": 1}, device)  # libraries, thread pools and caches of their own are made here
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        CLEAR.write_text("5")  # the peak starts anew from what is resident now
        before = resident("VmRSS")
    train(case, device)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else resident("VmHWM")
    print(json.dumps({"peak_growth": peak - before}))


def resident(name: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process in bytes."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def train(case: dict[str, Any], device: torch.device) -> None:
    """Three steps of `passes` passes over packed rows of two documents each."""
    torch.manual_seed(0)
    rows, length = case["rows"], case["max_length"]
    config = GPTConfig(**architecture_of(ModelArguments(**case["model"]), case["vocab_size"], length))
    model = GPTForCausalLM(config).to(device).train()
    if device.type == "cpu" and not case.get("bf16") and onednn_is_faster():
        multiply_by_onednn(model)  # as every stage does
    if case.get("activation_checkpointing"):
        model.activation_checkpointing_enable({"use_reentrant": False})
    rates = ("learning_rate", "embedding_learning_rate", "head_learning_rate", "scalar_learning_rate")
    if case["optimizer"] == "muon":
        optimizer: torch.optim.Optimizer = MuonAdamW(parameter_groups(model, **dict.fromkeys(rates, 1e-3)))
    elif case["optimizer"] == "galore_adamw":
        optimizer = galore(model)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    positions = torch.arange(length, device=device).remainder(length // 2).expand(rows, length).contiguous()
    for _ in range(3):
        for _ in range(case["passes"]):
            ids = torch.randint(case["vocab_size"], (rows, length), device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=case.get("bf16", False)):
                batch = {"input_ids": ids, "labels": ids.clone(), "position_ids": positions}
                loss = model(**batch, use_cache=False, skip_logits=not case.get("whole_logits", False)).loss
            (loss / case["passes"]).backward()
            del loss, batch
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.zero_grad()


def galore(model: GPTForCausalLM) -> torch.optim.Optimizer:
    """As HF's Trainer makes it of `optim_target_modules: [self_attn, mlp]` and `rank=32`."""
    from galore_torch import GaLoreAdamW

    given = {"rank": 32, "update_proj_gap": 200, "scale": 0.25, "proj_type": "std"}
    linears = [m for n, m in model.named_modules() if isinstance(m, nn.Linear) and ("self_attn" in n or "mlp" in n)]
    targets = {id(linear.weight) for linear in linears}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if id(p) not in targets]},
        {"params": [p for p in model.parameters() if id(p) in targets], **given},
    ]
    return GaLoreAdamW(groups)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
