"""Which fused head and loss a run trains with. The model carries its own, chunked in pure torch; torch's and liger's
are set on the loaded model by name and never saved."""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch.nn import functional as F

from hfgpt.errors import UserError
from hfgpt.model import GPTForCausalLM
from hfgpt.model.linear_cross_entropy import IGNORED, linear_cross_entropy, product_dtype


def use_fused_loss(model: GPTForCausalLM, name: str | None) -> None:
    """Let `model` train by the fused loss called `name`: chunked (null too), torch, or liger.

    Raises UserError for a name that is not known or cannot serve this model here.
    """
    model.linear_cross_entropy = _fused_loss(name or "chunked", model.config.final_logit_softcapping)


def _fused_loss(name: str, softcap: float | None) -> Callable[..., torch.Tensor]:
    if name == "chunked":
        return linear_cross_entropy
    if name == "torch":
        if softcap:
            raise UserError(
                "fused_loss: torch's linear_cross_entropy has no soft cap: leave it null, or set "
                "model.final_logit_softcapping to 0."
            )
        if torch.__version__ < "2.13":  # compares by number, not by letter
            raise UserError(f"fused_loss: torch needs torch 2.13, not {torch.__version__}: leave it null.")
        return torch_linear_cross_entropy
    if name == "liger":
        if not torch.cuda.is_available() or find_spec("liger_kernel") is None:
            raise UserError("fused_loss: liger needs a GPU and pip install liger-kernel: leave it null.")
        return liger_linear_cross_entropy
    raise UserError(f"fused_loss must be chunked, torch or liger, not {name}.")


def torch_linear_cross_entropy(
    hidden_states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, softcap: float | None = None
) -> torch.Tensor:
    """`hfgpt.model.linear_cross_entropy.linear_cross_entropy` by torch's own function, which takes no soft cap.

    In bfloat16 its gradient of the head is rougher than the chunked one: torch adds up its chunks in bfloat16.
    """
    assert softcap is None
    dtype = product_dtype(hidden_states)
    losses = F.linear_cross_entropy(
        hidden_states.to(dtype),
        weight.to(dtype),
        targets,
        reduction="none",  # its own sum is of the product's dtype: in bfloat16 it stands still after a few hundred
        ignore_index=IGNORED,
        options=torch.nn.LinearCrossEntropyOptions(),  # without options it builds all logits
    )
    return losses.float().sum()


def liger_linear_cross_entropy(
    hidden_states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, softcap: float | None = None
) -> torch.Tensor:
    """The same by liger-kernel's Triton kernels (Hsu et al. 2024, arXiv:2410.10989). Has not run here: no GPU."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    dtype = product_dtype(hidden_states)
    return liger_fused_linear_cross_entropy(
        hidden_states.to(dtype),
        weight.to(dtype),
        targets,
        ignore_index=IGNORED,
        reduction="sum",
        softcap=softcap,
    )
