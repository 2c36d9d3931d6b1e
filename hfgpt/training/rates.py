"""Learning rates that nobody set: from the shape of the model, or from the run before. Imports no torch."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfgpt.training.record import METRICS_FILE, read_records

# AdamW's rates fall with the square root of the width, tuned at 768 (nanochat scripts/base_train.py; Muon's update has
# the same size at every width and needs no such factor).
REFERENCE_WIDTH = 768
# Muon's rate is the best of several at 2,048 tokens a step whatever the length (docs/ablations.md), and nanochat's at
# 2**19 tokens a step and the 2,500 steps of its d12.
MUON_RATE = 0.02
REFERENCE_BATCH_TOKENS = 2048
REFERENCE_STEPS = 2500
MOST_TIMES_MUON_RATE = 3.0  # nothing above was measured
# The rate of the table of token pairs as a share of the embeddings' (docs/ablations.md).
BIGRAM_SHARE_OF_RATE = 0.5


def default_rates(architecture: Mapping[str, Any], uses_muon: bool) -> dict[str, float]:
    """Rate of each parameter group; without Muon, of `learning_rate` alone.

    The depth series' embeddings start at a standard deviation of 0.8 and take large steps, GPT-2's at 0.02 take small
    ones, as under AdamW alone (6e-4 at this width: Brown et al. 2020, table 2.1).
    """
    width = (architecture["hidden_size"] / REFERENCE_WIDTH) ** -0.5
    usual = 6e-4 * width
    if not uses_muon:
        return {"learning_rate": usual}
    large_steps = architecture["init_scheme"] == "depth"
    embedding = 0.3 * width if large_steps else usual
    return {
        "learning_rate": MUON_RATE,
        "embedding_learning_rate": embedding,
        **({"value_embedding_learning_rate": embedding} if architecture.get("value_embeddings") else {}),
        "head_learning_rate": 0.008 * width if large_steps else usual,
        "scalar_learning_rate": 0.01 if large_steps else usual,
    }


def muon_rate(tokens_per_step: int, steps: int) -> float:
    """The most that Muon's rate may be: 0.02, and more where steps are few and large.

    A batch of more than 2,048 tokens bears a rate that grows with its square root, for its gradient has less noise
    (Malladi et al. 2022, arXiv:2205.10287). How far depends on the length: the best rate falls with its power 0.32
    (Bjorck et al. 2024, arXiv:2409.19913), down to 0.02 at 2,500 steps. docs/ablations.md has what was measured,
    up to three times 0.02.
    """
    by_batch = math.sqrt(max(1.0, tokens_per_step / REFERENCE_BATCH_TOKENS))
    by_length = max(1.0, REFERENCE_STEPS / steps) ** 0.32
    return MUON_RATE * min(by_batch, by_length, MOST_TIMES_MUON_RATE)


def fill_rates(
    defaults: Mapping[str, float], given: Mapping[str, float | None], scale: float | None
) -> dict[str, float]:
    """The rates named in `defaults`: as `given`, and where that is null the default times `scale` (null is 1)."""
    scaled = {name: rate * (1.0 if scale is None else scale) for name, rate in defaults.items()}
    return scaled | {name: rate for name, rate in given.items() if name in defaults and rate is not None}


def bigram_weight_decay(embedding_rate: float, steps_of_epoch: float, epochs: float) -> float:
    """Decoupled decay of the table of token pairs, where nobody set it: none for text that is read once, and from one
    and a half readings on such that a row keeps e^-2 of itself from one reading to the next, in between less.

    A pair that comes once in the text is learned by heart when it is first read; on the second reading the model
    counts on that, which helps no other text (docs/ablations.md). That decay is to be counted in epochs is of Wang
    and Aitchison (2024, arXiv:2405.13698).
    """
    repeated = min(1.0, 2 * max(0.0, epochs - 1))
    if not repeated or not embedding_rate:
        return 0.0
    lost_a_step = -math.expm1(-2 * repeated / steps_of_epoch)  # below 1 where an epoch is a fraction of a step, too
    return lost_a_step / (BIGRAM_SHARE_OF_RATE * embedding_rate)


def where_rates_ended(folder: Path, optimizer: str) -> tuple[dict[str, float], float]:
    """The rates of the run that left `folder`, and the share of them at which its schedule ended.

    The share is 1 where the schedule fell below a tenth, which leaves too little to carry on: the rates then start
    anew from their highest. No rates and 1 for a folder that no run of ours left, as a model from the Hub, and for a
    run by another `optimizer`: Muon's rate would break AdamW's weights.
    """
    try:
        began = json.loads((folder / "identity.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}, 1.0
    if began.get("optimizer") != optimizer:
        return {}, 1.0
    rates = {name: float(value) for name, value in began.items() if name.endswith("learning_rate")}
    last = [record["learning_rate"] for record in read_records(folder / METRICS_FILE) if "learning_rate" in record]
    if not rates or not last or last[-1] < 0.1 * rates["learning_rate"]:
        return rates, 1.0
    return rates, last[-1] / rates["learning_rate"]
