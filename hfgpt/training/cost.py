"""Hours and dollars of a run at a stated MFU, and where that MFU comes from. Imports no torch."""

import json
from dataclasses import dataclass
from pathlib import Path

from hfgpt.training.accelerators import Accelerator, find_accelerator

# Within the 41-50% that nanochat reports of its own runs on H100s, at the careful end. Only ever shown as assumed.
ASSUMED_MFU = 0.40


@dataclass(frozen=True)
class Utilization:
    """Model FLOPs utilization, the share of the dense bfloat16 peak that training reaches, and where it is from."""

    mfu: float
    source: str
    is_measured: bool = False


def utilization(
    accelerator: Accelerator, stated: float | None = None, recipe: str = "", benchmarks: Path | None = None
) -> Utilization:
    """What the user stated; else the newest figure that `hfgpt bench` left in `benchmarks` for this accelerator, of
    this recipe before any other; else an assumption, named so."""
    if stated is not None:
        return Utilization(stated, "given by --mfu")
    measured: list[tuple[bool, float, str, float]] = []
    for path in sorted(benchmarks.glob("*.json")) if benchmarks else []:
        measured += [
            (name == recipe, path.stat().st_mtime, f"{path.name}, recipe {name}", mfu)
            for name, mfu in _measured(path, accelerator)
        ]
    if measured:
        *_, source, mfu = max(measured)
        return Utilization(mfu, f"measured: benchmarks/{source}", is_measured=True)
    return Utilization(
        ASSUMED_MFU, f"an ASSUMPTION, since benchmarks/ has no figure for {accelerator.name}; set it by --mfu"
    )


def _measured(path: Path, accelerator: Accelerator) -> list[tuple[str, float]]:
    """(recipe with its changes, MFU) of our own side in a report of `hfgpt bench` on this accelerator; none in any
    other file."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if not isinstance(report, dict) or report.get("kind") != "bench":
        return []
    if find_accelerator(str(report.get("device", ""))) != accelerator or not report.get("mfu"):
        return []
    recipe = [str(report.get("recipe", "")), *map(str, report.get("recipe_changes") or [])]
    return [(" ".join(recipe), float(report["mfu"]))]


def hours(flops: float, accelerator: Accelerator, num_gpus: int, mfu: float) -> float:
    """Wall-clock hours of this many training FLOPs, evaluations and saves not counted."""
    return flops / (accelerator.bf16_flops * num_gpus * mfu) / 3600


def flops_bought(gpu_hours: float, accelerator: Accelerator, mfu: float) -> float:
    """Training FLOPs of so many hours of one accelerator."""
    return gpu_hours * 3600 * accelerator.bf16_flops * mfu
