"""`hfgpt sweep RECIPE --depth 2 4 6 8`: every combination of the keys that have several values is pretrained, one
after the other, each in a process of its own; then come a table, plots and scaling laws. What is complete is passed
over."""

import dataclasses
import json
import re
import shlex
import subprocess
import sys
import typing
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from hfgpt.data.prepared import digest_of
from hfgpt.data.tokenizer_stage import SETTINGS_FILE, ensure_tokenizer, tokenizer_settings
from hfgpt.errors import STOPPED, UserError
from hfgpt.recipe import DEFAULT_RECIPE, Recipe, find_recipe, recipe_name, split_flags
from hfgpt.recipe_values import coerce
from hfgpt.report.sweep_report import write_sweep_report
from hfgpt.report.sweep_results import LOSS_NAMES, SweepRun, read_sweep_run, shared_loss
from hfgpt.report.tables import short_number, short_time
from hfgpt.run import launch_command, run_stage, split_token, with_token_aside, without_overwrite
from hfgpt.sweep_grid import STAGE, PlannedRun, plan_runs, plan_table, split_grid
from hfgpt.workspace import FINAL_METRICS

LOG_FILE = "log.txt"


@dataclass
class SweepFlags:
    """The flags of `hfgpt sweep` itself; every other is a key of the recipe."""

    name: str = field(default="sweep", metadata={"help": "Everything lies in <output_root>/<recipe>-<name>."})
    output_root: str = field(default="runs", metadata={"help": "Folder that holds one folder a recipe."})
    overwrite: bool = field(default=False, metadata={"help": "Run again what is complete."})
    dry_run: bool = field(default=False, metadata={"help": "Print the runs and their cost, and run none."})
    stop_on_failure: bool = field(default=False, metadata={"help": "Stop at the first run that fails."})
    accelerate_config: str | None = field(
        default=None, metadata={"help": "Launch every run by accelerate with this config file."}
    )
    debug: bool = field(default=False, metadata={"help": "Show the traceback of an error."})


@dataclass(frozen=True)
class Failure:
    """A run that ended without a model: its exit code and the last thing that it said."""

    run: PlannedRun
    code: int
    sentence: str


def main(argv: list[str]) -> int:
    """Run the sweep. Returns 0 where every run is complete, 2 where the user can mend all that failed, else 1."""
    named = argv[0] if argv and not argv[0].startswith("--") else DEFAULT_RECIPE
    own, others = _own_flags(split_flags(argv[1:] if argv[:1] == [named] else argv))
    path = find_recipe(named)
    folder = Path(own.output_root) / f"{recipe_name(path)}-{own.name}"
    fixed, swept = split_grid(others)
    if not swept:
        raise UserError("a sweep needs a key with several values, as in --depth 2 4 6 8.")
    runs = plan_runs(str(path), fixed, swept, folder, _processes(own.accelerate_config))
    if not own.overwrite:
        for run in runs:
            if _is_complete(run) and (change := run.changed()):
                raise UserError(f"{run.folder} was run with {change}: --name NAME keeps both, --overwrite only this.")
    print(f"{plan_table(runs)}\n{_cost(runs)}", flush=True)
    if own.dry_run:
        return 0

    complete, failures = [], []
    for number, run in enumerate(runs, start=1):
        print(f"[{number}/{len(runs)}] {run.name}: ", end="", flush=True)
        if _is_complete(run) and not own.overwrite:
            complete.append(read_sweep_run(run.name, run.settings, run.folder))
            print(f"complete, passed over; {_outcome(complete[-1])}", flush=True)
            continue
        print(f"log in {run.folder.parent / LOG_FILE}", flush=True)
        failure = _train(run, own, folder)
        if failure is None:
            complete.append(read_sweep_run(run.name, run.settings, run.folder))
            print(f"      {_outcome(complete[-1])}", flush=True)
            continue
        failures.append(failure)
        print(f"      failed with exit code {failure.code}: {failure.sentence}", flush=True)
        if own.stop_on_failure or failure.code == STOPPED:
            break
    go_on = shlex.join(["hfgpt", "sweep", *without_overwrite(split_token(argv)[0])])
    return _finish(complete, failures, folder, go_on)


def _own_flags(flags: list[tuple[str, list[str]]]) -> tuple[SweepFlags, list[tuple[str, list[str]]]]:
    """The sweep's own flags, and those of the recipe."""
    hints = typing.get_type_hints(SweepFlags)
    own, others = SweepFlags(), []
    for flag, words in flags:
        if flag in hints:
            value = words[0] if len(words) == 1 else not words
            try:
                own = dataclasses.replace(own, **{flag: coerce(value, hints[flag])})
            except ValueError as error:
                raise UserError(f"flag --{flag} {error}.") from None
        elif flag.rpartition(".")[2] == "output_dir":
            raise UserError("a sweep gives each run a folder of its own: write --output_root or --name.")
        else:
            others.append((flag, words))
    if own.accelerate_config and not Path(own.accelerate_config).is_file():
        raise UserError(f"--accelerate_config {own.accelerate_config} does not exist.")
    return own, others


def _processes(accelerate_config: str | None) -> int:
    """Processes that train one run together, as far as the plan must know them."""
    if accelerate_config:
        try:
            said = yaml.safe_load(Path(accelerate_config).read_text(encoding="utf-8"))
            return int(said.get("num_processes") or 1)
        except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"--accelerate_config {accelerate_config} is no config of accelerate's ({reason})."
            ) from error
    import torch

    return max(1, torch.cuda.device_count())


def _cost(runs: list[PlannedRun]) -> str:
    known = [run.plan.total_tokens * run.plan.flops_per_token for run in runs if run.plan.length.steps is not None]
    total = f", {sum(known):.2e} FLOPs" if len(known) == len(runs) else ""
    return f"{len(runs)} runs{total}"


def _is_complete(run: PlannedRun) -> bool:
    return (run.folder / FINAL_METRICS).is_file()


def _outcome(done: SweepRun) -> str:
    loss = shared_loss([done])
    return (
        f"{LOSS_NAMES[loss]} {done.losses[loss]:.4f} after {short_number(done.tokens)} tokens in "
        f"{short_time(done.seconds)}"
    )


def _train(run: PlannedRun, own: SweepFlags, folder: Path) -> Failure | None:
    """Train one run in a process of its own, whose words go to its log."""
    log = run.folder.parent / LOG_FILE
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        root = _root_of_shared(run.recipe, Path(own.output_root), folder)
    except UserError as error:
        return Failure(run, 2, str(error))
    words, environment = with_token_aside(STAGE, run.words)
    command = launch_command(STAGE, own.accelerate_config) + words
    command += ["--output_root", str(root), "--output_dir", str(run.folder)] + ["--overwrite"] * own.overwrite
    with log.open("ab") as file:
        begin = file.tell()
        code = run_stage(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    if code == 0 and _is_complete(run):
        return None
    return Failure(run, code, _last_sentence(log.read_bytes()[begin:].decode("utf-8", errors="replace")))


def _root_of_shared(recipe: Recipe, output_root: Path, folder: Path) -> Path:
    """The `--output_root` where this run finds its tokenizer and prepared data, with the tokenizer made there.

    Runs share what their keys allow: prepared rows are kept by a hash of what went into them, and each tokenizer has
    a root of its own; that of the recipe's own folder serves where it is the same.
    """
    settings = tokenizer_settings(recipe.tokenizer, recipe.data)
    own = output_root / recipe.name / "tokenizer" / SETTINGS_FILE
    is_own = not recipe.data.prepared and own.is_file() and json.loads(own.read_text(encoding="utf-8")) == settings
    root = output_root if is_own else folder / "shared" / digest_of([settings, recipe.data.prepared])[:8]
    (root / recipe.name / "data").mkdir(parents=True, exist_ok=True)  # a stage takes the folder that is there
    ensure_tokenizer(recipe.tokenizer, recipe.data, root / recipe.name / "tokenizer")
    return root


def _last_sentence(said: str) -> str:
    """Our own sentence, which may follow a progress bar on its line, or else the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["nothing was said"]
    ours = [found[1] for line in lines if (found := re.search(r"(?:^|\])hfgpt: (.+)", line))]
    return (ours or lines)[-1]


def _finish(complete: list[SweepRun], failures: list[Failure], folder: Path, command: str) -> int:
    failed = {failure.run.name: failure.sentence for failure in failures}
    if complete:
        report = write_sweep_report(complete, failed, folder, command)
        print(f"\n{report.read_text(encoding='utf-8').partition('## Runs')[2].strip()}\n\nreport in {report}")
    for failure in failures:
        message = f"{failure.run.name} failed: {failure.sentence} (log in {failure.run.folder.parent / LOG_FILE})"
        print(message, file=sys.stderr)
    if failures:
        print(f"go on with: {command}", file=sys.stderr)
    if not failures:
        return 0
    return 2 if all(failure.code == 2 for failure in failures) else 1
