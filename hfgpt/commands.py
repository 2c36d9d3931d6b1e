"""What the tools of the `hfgpt` command do that are not stages: each takes the words after its name."""

import sys
from dataclasses import dataclass, field
from typing import Any

from hfgpt.errors import UserError
from hfgpt.recipe import Recipe, load_recipe
from hfgpt.workspace import workspace


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

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes must be 1 or more, not {self.max_bytes}")


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

    def __post_init__(self) -> None:
        if self.rows < 0:
            raise ValueError(f"rows must be 0 or more, not {self.rows}")


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
    from hfgpt.hub_client import limit_waiting

    limit_waiting()
    recipe = load_recipe(argv, "push", PushArguments)
    flags = recipe.section("push", PushArguments)
    if flags.repo_id is None:
        raise UserError("hfgpt data push needs --repo_id, the dataset repo on the Hub (you/tiny-rows).")
    url = push_prepared(_prepare(recipe).path, flags.repo_id, private=flags.private, revision=flags.revision)
    print(f"rows at {url}")
