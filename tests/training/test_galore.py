"""An optimizer that HF knows and hfgpt does not: GaLore, by its name in the recipe."""

import json

import pytest
import torch
from commands import succeed

from hfgpt.training.record import read_records

pytestmark = pytest.mark.slow

SHAPE = ["recipes/tiny.yaml", "--depth", "2", "--hidden_size", "128", "--vocab_size", "400", "--max_length", "64"]
DATA = ["--tinyworld_documents", "400", "--validation_fraction", "0.05", "--num_proc", "1"]
QUIET = [
    "--disable_tqdm",
    "--logging_steps",
    "1",
    "--eval_tasks",
    "[]",
    "--eval_strategy",
    "no",
    "--sample_steps",
    "0",
]


def test_galore_learns_with_low_rank_states_of_the_matrices_it_is_given(tmp_path):
    galore = ["--optim", "galore_adamw", "--optim_target_modules", "self_attn", "mlp", "--learning_rate", "0.01"]
    galore += ["--optim_args", "rank=8,update_proj_gap=5", "--max_steps", "12", "--save_steps", "12"]
    succeed("hfgpt", "pretrain", *SHAPE, *DATA, *QUIET, *galore, "--output_root", tmp_path)
    folder = tmp_path / "tiny" / "pretrain"
    losses = [record["loss"] for record in read_records(folder / "metrics.jsonl") if "loss" in record]
    assert losses[-1] < losses[0] - 1
    state = torch.load(folder / "checkpoint-12" / "optimizer.pt", weights_only=False)["state"].values()
    shapes = {tuple(entry["exp_avg"].shape) for entry in state}
    assert (128, 8) in shapes or (8, 128) in shapes
    kept = sum(entry["exp_avg"].numel() + entry["exp_avg_sq"].numel() for entry in state)
    projections = [entry["projector"].ortho_matrix for entry in state if "projector" in entry]
    kept += sum(matrix.untyped_storage().nbytes() // 4 for matrix in projections)
    plan = json.loads(succeed("hfgpt", "plan", *SHAPE, *galore, "--json").stdout)
    assert plan["state_bytes"]["optimizer"] == 4 * kept
    adamw = json.loads(succeed("hfgpt", "plan", *SHAPE, "--optim", "adamw_torch", "--json").stdout)
    assert plan["state_bytes"]["optimizer"] < adamw["state_bytes"]["optimizer"]
