"""Learning rates that nobody set, from the shape of the model. Imports no torch."""

from collections.abc import Mapping
from typing import Any

# AdamW's rates fall with the square root of the width, tuned at 768 (nanochat scripts/base_train.py; Muon's update has
# the same size at every width and needs no such factor).
REFERENCE_WIDTH = 768


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
    return {
        "learning_rate": 0.02,
        "embedding_learning_rate": 0.3 * width if large_steps else usual,
        "head_learning_rate": 0.008 * width if large_steps else usual,
        "scalar_learning_rate": 0.01 if large_steps else usual,
    }
