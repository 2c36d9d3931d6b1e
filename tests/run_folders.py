"""Folders as a finished stage leaves them, with records that a test chooses."""

import json
from pathlib import Path

import yaml

from hfgpt.arguments import ModelArguments
from hfgpt.model.from_recipe import architecture_of
from hfgpt.training.budget import count_parameters


def architecture(**switches) -> dict:
    """A small shape of the depth series, with a vocabulary of 512 and a context of 128."""
    return architecture_of(ModelArguments(**{"depth": 2, "head_dim": 16, **switches}), 512, 128)


def write_stage(
    folder: Path,
    records: list[dict],
    recipe: dict | None = None,
    shape: dict | None = None,
    scores: dict | None = None,
    is_complete: bool = True,
    identity: dict | None = None,
) -> Path:
    """`records` go to metrics.jsonl as they are; what a record says last is what the stage ended with."""
    folder.mkdir(parents=True)
    shape = shape or architecture(hidden_size=32)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe or {"model": {"depth": 2}}))
    (folder / "identity.json").write_text(json.dumps({"seed": 42, "architecture": shape, **(identity or {})}))
    if scores:
        (folder / "evals.jsonl").write_text(json.dumps({"step": 9, "tokens": 9, "results": scores}) + "\n")
    if is_complete:
        last = {name: value for record in records for name, value in record.items()}
        names = ("tokens", "flops", "seconds", "loss", "val_loss", "val_bits_per_byte")
        final = {name: last.get(name) for name in names} | {"parameters": count_parameters(shape).total}
        (folder / "final_metrics.json").write_text(json.dumps(final))
    return folder


def falling_records(tokens: list[int], bits: list[float], tokens_per_second: float = 100.0) -> list[dict]:
    """An evaluation at each number of tokens; 10 FLOPs a token, 4 bytes a token."""
    return [
        {
            "step": step,
            "tokens": seen,
            "flops": 10.0 * seen,
            "seconds": seen / tokens_per_second,
            "loss": value * 2.7,
            "val_loss": value * 2.7726,
            "val_bits_per_byte": value,
        }
        for step, (seen, value) in enumerate(zip(tokens, bits, strict=True), start=1)
    ]
