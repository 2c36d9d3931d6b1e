"""What the tools of the `hfgpt` command do that are not stages: each takes the words after its name."""

import ast
import json as jsonlib
import sys
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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
    counted = {f.name for f in fields(PlanArguments)}
    others = [(key, Any, None) for key in sorted(stage_keys() - counted)]  # accepted, since training would take them
    section_class: type[PlanArguments] = make_dataclass("PlanSection", others, bases=(PlanArguments,))
    recipe = load_recipe(argv, "pretrain", section_class)
    given = recipe.section("pretrain", section_class)
    data = recipe.data
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


def tokenizer_train(argv: list[str]) -> None:
    """Train or fetch the tokenizer of a recipe into its folder."""
    from hfgpt.data.tokenizer_stage import ensure_tokenizer

    recipe = load_recipe(argv)
    folder = workspace(recipe, "pretrain").tokenizer
    tokenizer = ensure_tokenizer(recipe.tokenizer, recipe.data, folder)
    print(f"tokenizer with {len(tokenizer):,} tokens in {folder}")


@dataclass
class StatsArguments:
    """The flags of `hfgpt tokenizer stats`."""

    compare: list[str] = field(default_factory=list, metadata={"help": "Other tokenizers, by folder or Hub id."})
    max_bytes: int = field(default=10_000_000, metadata={"help": "Text that is measured, at most."})


def tokenizer_stats(argv: list[str]) -> None:
    """Print bytes per token on the recipe's own text, beside other tokenizers."""
    from rich.console import Console
    from rich.table import Table

    from hfgpt.data.documents import source_shards
    from hfgpt.data.tokenizer import compare_tokenizers, load_tokenizer, texts_for_training
    from hfgpt.data.tokenizer_stage import ensure_tokenizer

    recipe = load_recipe(argv, "stats", StatsArguments)
    flags = recipe.section("stats", StatsArguments)
    folder = workspace(recipe, "pretrain").tokenizer
    tokenizers = {recipe.name: ensure_tokenizer(recipe.tokenizer, recipe.data, folder)}
    tokenizers |= {name: load_tokenizer(name, add_chat_tokens=False) for name in flags.compare}
    documents = (text for shard in source_shards(recipe.data) for text in shard.documents())
    texts = list(texts_for_training(documents, flags.max_bytes, recipe.tokenizer.max_bytes_per_document))
    table = Table("tokenizer", "vocabulary", "used", "tokens", "bytes/token", "relative", "round trips")
    for row in compare_tokenizers(tokenizers, texts):
        table.add_row(
            row["tokenizer"],
            f"{row['vocab_size']:,}",
            f"{row['vocabulary_used']:.1%}",
            f"{row['tokens']:,}",
            f"{row['bytes_per_token']:.3f}",
            f"{row['relative_tokens']:.3f}",
            f"{row['round_trip_exact']:.1%}",
        )
    Console(width=None if sys.stdout.isatty() else 110).print(table)


@dataclass
class PrepareArguments:
    """The flags of `hfgpt data prepare`."""

    executor: str | None = field(default=None, metadata={"help": "local, slurm or ray, through datatrove."})
    tasks: int | None = field(default=None, metadata={"help": "With an executor: tasks, by default one a file."})
    workers: int = field(default=-1, metadata={"help": "With an executor: tasks at a time, -1 for all."})
    slurm: dict[str, Any] = field(default_factory=dict, metadata={"help": "{partition: cpu, time: '12:00:00', ...}"})


def data_prepare(argv: list[str]) -> None:
    """Tokenize and pack the text of a recipe, on this machine or on a cluster."""
    recipe = load_recipe(argv, "prepare", PrepareArguments)
    flags = recipe.section("prepare", PrepareArguments)
    prepared = _prepare(recipe, flags)
    if prepared is None:
        print("the jobs are queued; the last of them puts the rows together.")
        return
    print(prepared.summary())
    print(f"rows in {prepared.path}")


@dataclass
class InspectArguments:
    """The flags of `hfgpt data inspect`."""

    rows: int = field(default=3, metadata={"help": "Rows of each split that are shown."})


def data_inspect(argv: list[str]) -> None:
    """Print the statistics and a few rows of a recipe's prepared data, document by document."""
    from rich.console import Console
    from transformers import AutoTokenizer

    from hfgpt.data.inspection import inspect_prepared

    recipe = load_recipe(argv, "inspect", InspectArguments)
    prepared = _prepare(recipe)
    tokenizer = AutoTokenizer.from_pretrained(workspace(recipe, "pretrain").tokenizer)
    Console().print(inspect_prepared(prepared.path, tokenizer, recipe.section("inspect", InspectArguments).rows))


def _prepare(recipe: Recipe, where: PrepareArguments | None = None):
    from hfgpt.data.preparation import prepare_data
    from hfgpt.data.tokenizer_stage import ensure_tokenizer

    folders = workspace(recipe, "pretrain")
    ensure_tokenizer(recipe.tokenizer, recipe.data, folders.tokenizer)
    if where is None or where.executor is None:
        return prepare_data(recipe.data, folders.tokenizer, folders.data)
    from hfgpt.data.cluster import prepare_on_cluster

    return prepare_on_cluster(
        recipe.data,
        folders.tokenizer,
        folders.data,
        executor=where.executor,
        tasks=where.tasks,
        workers=where.workers,
        slurm=where.slurm,
    )


@dataclass
class PushArguments:
    """The flags of `hfgpt data push`."""

    repo_id: str | None = field(default=None, metadata={"help": "Dataset repo on the Hub, as you/tiny-rows."})
    private: bool = field(default=True, metadata={"help": "Make the repo private if it is made."})
    revision: str | None = field(default=None, metadata={"help": "Branch to push to."})


def data_push(argv: list[str]) -> None:
    """Prepare a recipe's rows if need be and push them to the Hub, for `data.prepared` elsewhere."""
    from hfgpt.data.prepared_hub import push_prepared

    recipe = load_recipe(argv, "push", PushArguments)
    flags = recipe.section("push", PushArguments)
    if flags.repo_id is None:
        raise UserError("hfgpt data push needs --repo_id, the dataset repo on the Hub (you/tiny-rows).")
    url = push_prepared(_prepare(recipe).path, flags.repo_id, private=flags.private, revision=flags.revision)
    print(f"rows at {url}")
