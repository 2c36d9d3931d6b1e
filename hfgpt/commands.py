"""What the tools of the `hfgpt` command do that are not stages: each takes the words after its name."""

import json as jsonlib
from dataclasses import asdict, dataclass, field, fields

from hfgpt.errors import UserError
from hfgpt.model.from_recipe import architecture_of
from hfgpt.recipe import Recipe, load_recipe
from hfgpt.training.plan import make_plan
from hfgpt.workspace import workspace


@dataclass
class PlanArguments:
    """What `hfgpt plan` reads of the `pretrain:` section, and its own flags."""

    max_steps: int | None = None
    target_flops: float | None = None
    target_param_data_ratio: float | None = None
    num_train_epochs: float | None = None
    total_batch_size: int | None = None
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    optim: str = "muon"
    learning_rate: float | None = None
    embedding_learning_rate: float | None = None
    head_learning_rate: float | None = None
    scalar_learning_rate: float | None = None
    num_gpus: int = field(default=1, metadata={"help": "Processes that train together."})
    json: bool = field(default=False, metadata={"help": "Print JSON."})


def plan(argv: list[str]) -> None:
    """Print the plan of a recipe. Imports neither torch nor transformers."""
    recipe = load_recipe(argv, "pretrain", PlanArguments)
    known = {f.name for f in fields(PlanArguments)}
    section = recipe.sections.get("pretrain", {})
    recipe.sections["pretrain"] = {key: value for key, value in section.items() if key in known}
    given, data = recipe.section("pretrain", PlanArguments), recipe.data
    if given.num_gpus < 1:
        raise UserError(f"--num_gpus must be at least 1, not {given.num_gpus}.")
    made = make_plan(
        architecture_of(recipe.model, recipe.tokenizer.vocab_size, data.max_length),
        depth=recipe.model.depth,
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
    )
    print(jsonlib.dumps(made.as_dict(), indent=1) if given.json else made.as_text())


def tokenizer_train(argv: list[str]) -> None:
    """Train or fetch the tokenizer of a recipe into its folder."""
    from hfgpt.data.tokenizer_stage import ensure_tokenizer

    recipe = load_recipe(argv)
    folder = workspace(recipe, "pretrain").tokenizer
    tokenizer = ensure_tokenizer(recipe.tokenizer, recipe.data, folder)
    print(f"tokenizer with {len(tokenizer):,} tokens in {folder}")


def data_prepare(argv: list[str]) -> None:
    """Tokenize and pack the text of a recipe."""
    prepared = _prepare(load_recipe(argv))
    print(prepared.summary())
    print(f"rows in {prepared.path}")


def _prepare(recipe: Recipe):
    from hfgpt.data.preparation import prepare_data
    from hfgpt.data.tokenizer_stage import ensure_tokenizer

    folders = workspace(recipe, "pretrain")
    ensure_tokenizer(recipe.tokenizer, recipe.data, folders.tokenizer)
    return prepare_data(recipe.data, folders.tokenizer, folders.data)
