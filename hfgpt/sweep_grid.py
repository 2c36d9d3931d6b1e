"""The runs of a sweep: a recipe and flags, of which some have several values, become one planned run for each
combination. Nothing here trains."""

import dataclasses
import functools
import itertools
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any

from hfgpt.data.prepared import digest_of
from hfgpt.errors import UserError
from hfgpt.model.from_recipe import architecture_of, vocabulary_of
from hfgpt.recipe import SHARED_SECTIONS, Recipe, is_list, load_recipe
from hfgpt.report.tables import markdown_table, short_number
from hfgpt.training.arguments import PretrainArguments
from hfgpt.training.plan import Plan, make_plan
from hfgpt.workspace import RECIPE_FILE

STAGE = "pretrain"
# A complete run is the same run whatever these say.
WITHOUT_EFFECT = {
    *("output_dir", "num_proc", "report_to", "dataloader_num_workers", "hub_token"),
    *("save_steps", "save_total_limit", "save_weights_total_limit", "save_on_each_node"),
}

Flags = Sequence[tuple[str, list[str]]]


@dataclass(frozen=True)
class PlannedRun:
    """One combination: `words` are its recipe and flags, `folder` is where its stage leaves everything."""

    name: str
    settings: dict[str, Any]
    words: list[str]
    folder: Path
    recipe: Recipe
    plan: Plan

    def changed(self) -> str | None:
        """What the recipe in `folder` says otherwise, in words; None where it is this run's."""
        left = load_recipe([str(self.folder / RECIPE_FILE)], STAGE, checked_arguments())
        for section, arguments_class in {**SHARED_SECTIONS, STAGE: checked_arguments()}.items():
            was = dataclasses.asdict(left.section(section, arguments_class))
            for key, value in dataclasses.asdict(self.recipe.section(section, arguments_class)).items():
                if was[key] != value and key not in WITHOUT_EFFECT:
                    return f"{section}.{key} {was[key]}, not {value}"
        return None


@functools.cache
def checked_arguments() -> type:
    """The keys of PretrainArguments with their types and defaults, without what building one does to this process
    (HF's arguments take hold of the GPU)."""
    hints = typing.get_type_hints(PretrainArguments)
    keys = [
        (f.name, hints[f.name], dataclasses.field(default=f.default))
        if f.default_factory is dataclasses.MISSING
        else (f.name, hints[f.name], dataclasses.field(default_factory=f.default_factory))
        for f in dataclasses.fields(PretrainArguments)
        if f.init
    ]
    return make_dataclass("CheckedArguments", keys)


def split_grid(flags: Flags) -> tuple[Flags, Flags]:
    """(flags with one value, flags that are swept). A key that is a list is swept by values in brackets each."""
    hints: dict[str, Any] = {}
    for arguments_class in (checked_arguments(), *SHARED_SECTIONS.values()):
        hints |= typing.get_type_hints(arguments_class)
    fixed: list[tuple[str, list[str]]] = []
    swept: list[tuple[str, list[str]]] = []
    for flag, words in flags:
        takes_list = is_list(hints.get(flag.rpartition(".")[2]))
        has_several = len(words) > 1 and (not takes_list or all(word.startswith("[") for word in words))
        (swept if has_several else fixed).append((flag, words))
    return fixed, swept


def plan_runs(recipe: str, fixed: Flags, swept: Flags, folder: Path, num_processes: int) -> list[PlannedRun]:
    """One run for each combination, the first key varying slowest. Raises UserError for whatever is wrong in any."""
    runs: dict[str, PlannedRun] = {}
    for values in itertools.product(*(words for _, words in swept)):
        chosen = [(flag, [value]) for (flag, _), value in zip(swept, values, strict=True)]
        name = "_".join(f"{flag.rpartition('.')[2]}-{_for_a_path(value)}" for flag, (value,) in chosen)
        if name in runs:
            raise UserError(f"{name.replace('-', ' ', 1)} stands twice in the sweep.")
        words = [recipe, *(word for flag, given in (*fixed, *chosen) for word in (f"--{flag}", *given))]
        runs[name] = _plan_run(name, words, [flag for flag, _ in swept], folder / name / STAGE, num_processes)
    return list(runs.values())


def plan_table(runs: list[PlannedRun]) -> str:
    """What every run will be."""
    rows = []
    for run in runs:
        row = [run.name, short_number(run.plan.parameters.total)]
        if run.plan.length.steps is None:  # an epoch's rows are known when the data is prepared
            row += ["-", "-", "-"]
        else:
            tokens = run.plan.total_tokens
            row += [f"{run.plan.max_steps:,}", short_number(tokens), f"{tokens * run.plan.flops_per_token:.2e}"]
        rows.append(row)
    return markdown_table(["run", "parameters", "steps", "tokens", "FLOPs"], rows)


def _plan_run(name: str, words: list[str], swept: list[str], folder: Path, num_processes: int) -> PlannedRun:
    recipe = load_recipe(words, STAGE, checked_arguments())
    data = recipe.data
    args: Any = recipe.section(STAGE, checked_arguments())
    plan = make_plan(
        architecture_of(recipe.model, vocabulary_of(recipe), data.max_length),
        depth=None if args.model_name_or_path else recipe.model.depth,
        optimizer=args.optim,
        max_length=data.max_length,
        per_device_batch_size=args.per_device_train_batch_size,
        num_processes=num_processes,
        grad_accum_steps=args.gradient_accumulation_steps,
        total_batch_size=args.total_batch_size,
        max_steps=args.max_steps,
        target_flops=args.target_flops,
        target_param_data_ratio=args.target_param_data_ratio,
        num_train_epochs=args.num_train_epochs,
    )
    settings = {}
    for flag in swept:
        section, _, key = flag.rpartition(".")
        (owner,) = (s for (s, k), by in recipe.given_by.items() if by == "flag" and k == key and section in ("", s))
        settings[key] = recipe.sections[owner][key]
    return PlannedRun(name, settings, words, folder, recipe, plan)


def _for_a_path(value: str) -> str:
    """The value as part of a folder's name; what had to be changed is told apart by a digest."""
    plain = re.sub(r"[^A-Za-z0-9_.+-]+", "-", value).strip("-.")[:40]
    return plain if plain == value else f"{plain}-{digest_of(value)[:6]}"
