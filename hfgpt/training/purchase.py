"""Backwards from money: the models of the depth series that a budget trains, as numbers and text. Imports no torch."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hfgpt.errors import UserError
from hfgpt.training.accelerators import Accelerator
from hfgpt.training.budget import DEPTH_SERIES_RATIO, count_parameters, flops_per_token, scaling_parameters
from hfgpt.training.cost import Utilization, flops_bought

DEEPEST = 128  # layers; nothing that a budget of this tool's users buys comes near
ROUND_PRICES = (1.0, 2.0, 3.0, 4.0)  # dollars an hour to look the answer up at, where none is given


@dataclass(frozen=True)
class Offer:
    """One model that the money trains, all of it spent: `ratio` is tokens per weight of block matrices and head,
    `most_rows` what one pass on one GPU can hold, 0 where not even one row fits."""

    price: float
    gpu_hours: float
    hours: float
    flops: float
    depth: int
    parameters: int
    tokens: int
    ratio: float
    most_rows: int


@dataclass(frozen=True)
class Purchase:
    """What a budget buys: at the price given, the deepest model and two smaller ones trained longer; else the deepest
    at each of a few prices."""

    budget: float
    accelerator: Accelerator
    num_gpus: int
    utilization: Utilization
    price: float | None
    ratio: float
    recipe: str
    offers: list[Offer]

    def as_dict(self) -> dict[str, Any]:
        return {
            "budget": self.budget,
            "gpu": asdict(self.accelerator),
            "num_gpus": self.num_gpus,
            "mfu": self.utilization.mfu,
            "mfu_source": self.utilization.source,
            "price": self.price,
            "target_param_data_ratio": self.ratio,
            "offers": [asdict(offer) for offer in self.offers],
        }

    def as_text(self) -> str:
        used, gpu = self.utilization, self.accelerator
        lines = [
            f"budget      ${self.budget:,.2f} on {self.num_gpus} x {gpu.name}, all of it spent on training",
            f"MFU         {used.mfu:.1%} of {gpu.bf16_flops:.3g} FLOP/s ({used.source})",
        ]
        if self.price is None:
            lines.append("price       not given; at a few round ones (--price, dollars per GPU-hour, sets it):")
        lines.append(
            "  $/GPU-hour  GPU-hours     hours     FLOPs  depth     parameters           tokens  per weight  most rows"
        )
        lines += [
            f"{offer.price:>12.2f}  {offer.gpu_hours:>9,.1f}  {offer.hours:>8,.2f}  {offer.flops:>8.2e}  "
            f"{offer.depth:>5}  {offer.parameters:>13,}  {offer.tokens:>15,}  {offer.ratio:>10.1f}  "
            f"{offer.most_rows or 'none':>9}"
            for offer in self.offers
        ]
        lines.append("per weight  tokens for each weight of block matrices and head")
        lines.append(
            "most rows   of one pass that a GPU can hold, activations checkpointed, sharded where there are several"
        )
        if self.price is not None:
            best = self.offers[0]
            lines.append(
                f"plan it     hfgpt plan {self.recipe} --depth {best.depth} --target_param_data_ratio "
                f'{best.ratio:.1f} --gpu "{gpu.name}" --num_gpus {self.num_gpus} --price {self.price:g}'
            )
        return "\n".join(lines)


def purchase(
    budget: float,
    accelerator: Accelerator,
    used: Utilization,
    architecture_at: Callable[[int], Mapping[str, Any]],
    rows_that_fit: Callable[[Mapping[str, Any]], int],
    *,
    max_length: int,
    num_gpus: int = 1,
    price: float | None = None,
    ratio: float | None = None,
    depth: int | None = None,
    recipe: str = "d20",
) -> Purchase:
    """The models that `budget` dollars train at `price` dollars per GPU-hour, to at least `ratio` tokens per weight.

    `architecture_at` makes the architecture of a depth, and `rows_that_fit` says how many rows of it one pass on a GPU
    can hold; `depth` fixes it, and then all that is asked is the tokens. Raises UserError where the money does not
    train a single layer, or none fits.
    """
    wanted = DEPTH_SERIES_RATIO if ratio is None else ratio
    offers = []
    for dollars_an_hour in ROUND_PRICES if price is None else (price,):
        gpu_hours = budget / dollars_an_hour
        flops = flops_bought(gpu_hours, accelerator, used.mfu)
        deepest = depth or _deepest(flops, architecture_at, rows_that_fit, max_length, wanted)
        smaller = [d for d in (deepest - 2, deepest - 4) if d > 0 and price is not None and depth is None]
        for layers in [deepest, *smaller]:
            architecture = architecture_at(layers)
            tokens = flops / flops_per_token(architecture, max_length)
            offers.append(
                Offer(
                    price=dollars_an_hour,
                    gpu_hours=gpu_hours,
                    hours=gpu_hours / num_gpus,
                    flops=flops,
                    depth=layers,
                    parameters=count_parameters(architecture).total,
                    tokens=round(tokens),
                    ratio=tokens / scaling_parameters(architecture),
                    most_rows=rows_that_fit(architecture),
                )
            )
    return Purchase(budget, accelerator, num_gpus, used, price, wanted, recipe, offers)


def _deepest(
    flops: float,
    architecture_at: Callable[[int], Mapping[str, Any]],
    rows_that_fit: Callable[[Mapping[str, Any]], int],
    max_length: int,
    ratio: float,
) -> int:
    """The most layers that fit and whose horizon of `ratio` tokens per weight costs at most `flops`."""
    deepest = 0
    for depth in range(1, DEEPEST + 1):
        architecture = architecture_at(depth)
        if flops_per_token(architecture, max_length) * ratio * scaling_parameters(architecture) > flops:
            break
        if not rows_that_fit(architecture):
            if not deepest:
                raise UserError("not even one layer fits into this GPU: lower data.max_length.")
            break
        deepest = depth
    if not deepest:
        raise UserError(
            f"this budget buys {flops:.2e} FLOPs, too few for a model of one layer at {ratio:g} tokens per weight: "
            "raise --budget or lower --target_param_data_ratio."
        )
    return deepest
