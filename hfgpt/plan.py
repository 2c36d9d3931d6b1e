"""`hfgpt plan`: what a recipe costs in parameters, FLOPs, steps, memory, hours and dollars, or what a budget buys.

    hfgpt plan recipes/d20.yaml --gpu H100 --num_gpus 8 --price 3.0
    hfgpt plan --budget 100 --gpu H100 --price 3.0

Runs nothing, and imports neither torch nor transformers.
"""

import ast
import json as jsonlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hfgpt.errors import UserError
from hfgpt.model.from_recipe import architecture_of, vocabulary_of
from hfgpt.recipe import Recipe, load_recipe
from hfgpt.training.accelerators import ACCELERATORS, Accelerator, find_accelerator
from hfgpt.training.activations import AttentionKernel
from hfgpt.training.cost import Utilization, utilization
from hfgpt.training.estimate import USABLE_SHARE, make_estimate
from hfgpt.training.galore import GaLore, galore_of
from hfgpt.training.memory import Process, Strategy, largest_batch
from hfgpt.training.plan import Plan, make_plan
from hfgpt.training.purchase import Purchase, purchase

BUDGET_RECIPE = "d20"  # whose vocabulary, context and batch a budget is planned with when no recipe is named
BENCHMARKS = Path("benchmarks")  # where `hfgpt bench` leaves its figures


@dataclass
class PlanArguments:
    """What `hfgpt plan` reads of the `pretrain:` section, and its own flags."""

    model_name_or_path: str | None = None
    max_steps: int | None = None
    target_flops: float | None = None
    target_param_data_ratio: float | None = None
    num_train_epochs: float | None = None
    total_batch_size: int | None = None
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    optim: str = "muon"
    optim_args: str | None = None
    optim_target_modules: str | list[str] | None = None
    learning_rate: float | None = None
    embedding_learning_rate: float | None = None
    value_embedding_learning_rate: float | None = None
    head_learning_rate: float | None = None
    scalar_learning_rate: float | None = None
    rate_scale: float | None = None
    bf16: bool | None = None
    fp8: bool = False
    torch_compile: bool | None = None
    activation_checkpointing: bool | None = None
    gradient_checkpointing: bool | None = None
    use_cpu: bool = False

    gpu: str | None = field(default=None, metadata={"help": "A known GPU, as H100: adds fit, hours, decoding speed."})
    num_gpus: int = field(default=1, metadata={"help": "Processes that train together."})
    gpu_memory: float | None = field(default=None, metadata={"help": "GiB of one GPU, for one that is not known."})
    price: float | None = field(default=None, metadata={"help": "Dollars for one GPU-hour."})
    mfu: float | None = field(default=None, metadata={"help": "Share of the GPU's peak that training reaches."})
    budget: float | None = field(default=None, metadata={"help": "Dollars: plan backwards, to depth and tokens."})
    json: bool = field(default=False, metadata={"help": "Print JSON."})

    def __post_init__(self) -> None:
        lengths = ("target_flops", "target_param_data_ratio", "num_train_epochs")
        batch = ("total_batch_size", "per_device_train_batch_size", "gradient_accumulation_steps")
        for key in (*lengths, *batch, "num_gpus", "gpu_memory", "price", "budget"):
            if (value := getattr(self, key)) is not None and value <= 0:
                raise ValueError(f"{key} must be above zero, not {value}")
        if self.mfu is not None and not 0 < self.mfu <= 1:
            raise ValueError(f"mfu is a share of the peak, above 0 and at most 1, not {self.mfu}")

    @property
    def galore(self) -> GaLore | None:
        return galore_of(self.optim, self.optim_args, self.optim_target_modules)


def main(argv: list[str]) -> None:
    """Print the plan of a recipe, or what `--budget` buys."""
    counted = {f.name for f in fields(PlanArguments)}
    others = [(key, Any, None) for key in sorted(stage_keys() - counted)]  # accepted, since training would take them
    section_class: type[PlanArguments] = make_dataclass("PlanSection", others, bases=(PlanArguments,))
    names_recipe = bool(argv) and not argv[0].startswith("--")
    is_backwards = any(word.partition("=")[0] == "--budget" for word in argv)
    if is_backwards and not names_recipe:
        argv = [BUDGET_RECIPE, *argv]
    recipe = load_recipe(argv, "pretrain", section_class)
    given = recipe.section("pretrain", section_class)
    accelerator = _accelerator(given.gpu)
    if accelerator is not None and given.use_cpu:
        raise UserError("--gpu plans for a GPU, but use_cpu trains on the CPU: leave out one of them.")
    used = utilization(accelerator, given.mfu, recipe.name, BENCHMARKS) if accelerator else None
    if given.budget is not None:
        if accelerator is None or used is None:
            raise UserError("--budget needs --gpu, the GPU that the money rents, as --gpu H100.")
        bought = _backwards(recipe, argv[0], given, accelerator, used)
        print(jsonlib.dumps(bought.as_dict(), indent=1) if given.json else bought.as_text())
        return
    made = _plan(recipe, given)
    estimate = make_estimate(
        made,
        process_of(recipe, given, made),
        accelerator=accelerator,
        memory_bytes=given.gpu_memory * 2**30 if given.gpu_memory else None,
        utilization=used,
        price=given.price,
    )
    if given.json:
        print(jsonlib.dumps(made.as_dict() | estimate.as_dict(), indent=1))
    else:
        print(made.as_text() + "\n" + estimate.as_text())


def _plan(recipe: Recipe, given: PlanArguments) -> Plan:
    data = recipe.data
    return make_plan(
        architecture_of(recipe.model, vocabulary_of(recipe), data.max_length),
        depth=None if given.model_name_or_path else recipe.model.depth,
        optimizer=given.optim,
        max_length=data.max_length,
        per_device_batch_size=given.per_device_train_batch_size,
        num_processes=given.num_gpus,
        grad_accum_steps=given.gradient_accumulation_steps,
        total_batch_size=given.total_batch_size,
        max_steps=given.max_steps,
        target_flops=given.target_flops,
        target_param_data_ratio=given.target_param_data_ratio,
        num_train_epochs=given.num_train_epochs,
        rates={name: rate for name, rate in asdict(given).items() if name.endswith("learning_rate")},
        rate_scale=given.rate_scale,
        earlier_rates={} if given.model_name_or_path else None,
        galore=given.galore,
    )


def process_of(recipe: Recipe, given: PlanArguments, made: Plan) -> Process:
    """How one GPU of this recipe trains, under DDP: as the stage itself decides what the recipe leaves open."""
    on_gpu = not given.use_cpu
    bf16 = on_gpu if given.bf16 is None else given.bf16
    fastest: AttentionKernel = "flash" if on_gpu and bf16 else "sdpa"  # as training/attention.py chooses
    kernels: dict[str | None, AttentionKernel] = {"eager": "eager", "sdpa": "sdpa", None: fastest}
    return Process(
        rows=made.batch.per_device_batch_size,
        max_length=made.batch.max_length,
        optimizer=given.optim,
        galore=given.galore,
        num_processes=made.batch.num_processes,
        on_gpu=on_gpu,
        bf16=bf16,
        fp8=given.fp8,
        activation_checkpointing=bool(given.activation_checkpointing or given.gradient_checkpointing),
        accumulates=made.batch.grad_accum_steps > 1,
        attention=kernels.get(recipe.model.attn_implementation, "flash"),
        packed=not recipe.data.cross_document_attention,
        torch_compile=on_gpu if given.torch_compile is None else given.torch_compile,
    )


def _accelerator(name: str | None) -> Accelerator | None:
    if name is None:
        return None
    found = find_accelerator(name)
    if found is None:
        known = ", ".join(sorted(accelerator.name for accelerator in ACCELERATORS))
        raise UserError(f"--gpu {name} is not known; known are {known}. For another, give --gpu_memory alone.")
    return found


def _backwards(
    recipe: Recipe, named: str, given: PlanArguments, accelerator: Accelerator, used: Utilization
) -> Purchase:
    """What the money buys in models of the recipe's kind; a depth given as a flag is kept."""
    sizes = ("preset", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "layer_types")
    fixed = [key for key in sizes if getattr(recipe.model, key) is not None]
    if fixed:
        raise UserError(
            f"--budget looks for a depth, but {recipe.place('model', fixed[0])} fixes the size: name a recipe that "
            f"sets depth alone, as {BUDGET_RECIPE}."
        )

    vocab_size = vocabulary_of(recipe)

    def architecture_at(depth: int) -> dict[str, Any]:
        model = type(recipe.model)(**asdict(recipe.model) | {"depth": depth})
        return architecture_of(model, vocab_size, recipe.data.max_length)

    memory_bytes = given.gpu_memory * 2**30 if given.gpu_memory else accelerator.memory_bytes

    def rows_that_fit(architecture: Mapping[str, Any]) -> int:
        strategy: Strategy = "fsdp2" if given.num_gpus > 1 else "ddp"
        process = Process(
            rows=1,
            max_length=recipe.data.max_length,
            optimizer=given.optim,
            galore=given.galore,
            num_processes=given.num_gpus,
            strategy=strategy,
            activation_checkpointing=True,
            accumulates=True,
            packed=not recipe.data.cross_document_attention,
        )
        return largest_batch(architecture, process, USABLE_SHARE * memory_bytes)

    depth_is_flag = recipe.given_by.get(("model", "depth")) == "flag"
    return purchase(
        given.budget or 0.0,
        accelerator,
        used,
        architecture_at,
        rows_that_fit,
        max_length=recipe.data.max_length,
        num_gpus=given.num_gpus,
        price=given.price,
        ratio=given.target_param_data_ratio,
        depth=recipe.model.depth if depth_is_flag else None,
        recipe=named,
    )


def stage_keys() -> set[str]:
    """Names of all keys of the `pretrain:` section, read from its classes' source: importing them takes seconds."""
    transformers = find_spec("transformers")
    assert transformers is not None and transformers.submodule_search_locations
    sources = (
        (Path(transformers.submodule_search_locations[0]) / "training_args.py", "TrainingArguments"),
        (Path(__file__).parent / "training" / "arguments.py", "StageArguments"),
        (Path(__file__).parent / "training" / "arguments.py", "PretrainArguments"),
    )
    names = set()
    for path, class_name in sources:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
        assigned = (node.target for node in found.body if isinstance(node, ast.AnnAssign))
        names |= {target.id for target in assigned if isinstance(target, ast.Name)}
    return names
