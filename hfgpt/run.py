"""`hfgpt run RECIPE`: every stage that a recipe names, in order, each as a process of its own, then the report card;
what is complete is passed over."""

import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hfgpt.errors import UserError
from hfgpt.recipe import SHARED_SECTIONS, STAGES, Recipe, RunArguments, load_recipe, split_flags
from hfgpt.workspace import workspace

LEAKAGE_TOKENS = 20_000_000  # read in about a minute on one core; more is left to who asks for it

PACKAGE = Path(__file__).resolve().parent


@dataclass
class RunFlags:
    """The flags of `hfgpt run` itself."""

    first: str | None = field(default=None, metadata={"flag": "from", "help": "The stage to begin with."})
    until: str | None = field(default=None, metadata={"help": "The last stage to run."})
    accelerate_config: str | None = field(
        default=None, metadata={"help": "Launch every stage by accelerate with this config file."}
    )


def main(argv: list[str]) -> int | None:
    """Run the recipe's stages; stops at the first that fails, with the command that goes on."""
    own, others = _own_flags(argv)
    recipe = load_recipe(_without_stage_flags(others))
    stages = _stages(recipe, own)
    flags_of = {stage: _flags_for(stage, others) for stage in STAGES}
    has_run = False
    for stage in stages:
        is_complete = workspace(recipe, stage).is_complete
        if is_complete and not recipe.run.overwrite:
            if has_run:
                raise UserError(
                    f"{recipe.folder / stage} was made from an earlier model: make it anew with "
                    f"{_command_again(others, own, stage)} --overwrite."
                )
            print(f"{stage}: complete in {recipe.folder / stage}, passed over", flush=True)
            continue
        print(f"{stage}: {recipe.folder / stage}", flush=True)
        words, environment = with_token_aside(stage, flags_of[stage])
        code = run_stage(launch_command(stage, own.accelerate_config) + words, env=environment)
        if code:
            message = f"{stage} stopped with exit code {code}; go on with: {_command_again(others, own, stage)}"
            print(message, file=sys.stderr, flush=True)
            return code if code > 0 else 1
        has_run = True
    _report(recipe.folder, has_run)
    return None


def _report(folder: Path, has_run: bool) -> None:
    """Abilities, leakage and the report card; a figure that cannot be had fails no run."""
    from hfgpt.evals.leakage import LEAKAGE_FILE
    from hfgpt.report.abilities import abilities_of, abilities_table, write_abilities
    from hfgpt.report.command import report

    if abilities_of(folder)[1]:
        print(abilities_table(folder))
        print(f"abilities in {write_abilities(folder)}")
    if has_run or not (folder / "report" / LEAKAGE_FILE).is_file():
        print(_leakage(folder), flush=True)
    try:
        report(folder)
    except UserError as error:  # every stage has an output_dir elsewhere
        print(f"no report card: {error}", flush=True)


def _leakage(folder: Path) -> str:
    """Measure the overlap of the training data with the evaluations where that is quick; what came of it in words."""
    from hfgpt.evals.leakage import measure_leakage, write_leakage
    from hfgpt.evals.training_text import tokens_to_read
    from hfgpt.report.tables import short_number

    tokens = tokens_to_read(folder)
    if tokens > LEAKAGE_TOKENS:
        return f"leakage not measured: {short_number(tokens)} tokens to read; hfgpt leakage {folder} does it"
    try:
        measured = measure_leakage(folder)
    except UserError as error:
        return f"leakage not measured: {error}"
    found = sum(task["overlapping"] for task in measured["tasks"].values())
    asked = sum(task["questions"] for task in measured["tasks"].values())
    return f"leakage in {write_leakage(folder, measured)}: {found:,} of {asked:,} questions overlap the training data"


def _own_flags(argv: list[str]) -> tuple[RunFlags, list[str]]:
    """The flags of `hfgpt run`, and all other words."""
    own = RunFlags()
    others: list[str] = []
    words = list(argv)
    names = {"--from": "first", "--until": "until", "--accelerate_config": "accelerate_config"}
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        flag = "--" + flag[2:].replace("-", "_") if flag.startswith("--") else flag
        if flag not in names:
            others.append(word)
        elif equals or (words and not words[0].startswith("--")):
            setattr(own, names[flag], value if equals else words.pop(0))
        else:
            raise UserError(f"{flag} needs a value.")
    if own.accelerate_config and not Path(own.accelerate_config).is_file():
        raise UserError(f"--accelerate_config {own.accelerate_config} does not exist.")
    return own, others


def _stages(recipe: Recipe, own: RunFlags) -> list[str]:
    named = [stage for stage in STAGES if stage in recipe.sections]
    if not named:
        raise UserError(f"{recipe.path} names no stage: give it a section {', '.join(STAGES[:-1])} or {STAGES[-1]}.")
    for flag, stage in (("--from", own.first), ("--until", own.until)):
        if stage is not None and stage not in named:
            raise UserError(f"{flag} {stage}: the stages of {recipe.path} are {', '.join(named)}.")
    first = named.index(own.first) if own.first else 0
    last = named.index(own.until) if own.until else len(named) - 1
    if first > last:
        raise UserError(f"--from {own.first} comes after --until {own.until}.")
    return named[first : last + 1]


def _without_stage_flags(words: list[str]) -> list[str]:
    """The recipe and the flags that every stage knows; those of one stage are for that stage to check."""
    return _flags_for(None, words)


def _flags_for(stage: str | None, words: list[str]) -> list[str]:
    """The recipe, the shared flags, and `--stage.key` of this stage alone. Raises UserError for a stage's key without
    its stage."""
    recipe = [words[0]] if words and not words[0].startswith("--") else []
    kept, owners = list(recipe), _shared_owners()
    for flag, values in split_flags(words[len(recipe) :]):
        section, dot, _ = flag.partition(".")
        if not dot and flag not in owners:
            raise UserError(f"flag --{flag} belongs to a stage: write --pretrain.{flag}, --sft.{flag}, ...")
        flag = flag if dot else owners[flag]  # with its section: a stage may have a key of the same name
        if section not in STAGES or section == stage:
            kept += [f"--{flag}", *values]
    return kept


def _shared_owners() -> dict[str, str]:
    """Each key that all stages share, and the flag that means it in any of them."""
    owners = {f.name: f"{name}.{f.name}" for name, section in SHARED_SECTIONS.items() for f in fields(section)}
    return owners | {f.name: f.name for f in fields(RunArguments)}


def launch_command(stage: str, accelerate_config: str | None = None) -> list[str]:
    """The command of one stage: by accelerate where several GPUs are there or a config is given, else by itself."""
    script = str(PACKAGE / f"{stage}.py")
    accelerate = [sys.executable, "-m", "accelerate.commands.launch"]
    if accelerate_config:
        return [*accelerate, "--config_file", accelerate_config, script]
    import torch

    if torch.cuda.device_count() > 1:
        return [*accelerate, "--multi_gpu", "--num_processes", str(torch.cuda.device_count()), script]
    return [sys.executable, "-m", "hfgpt.cli", stage]


def without_overwrite(words: list[str]) -> list[str]:
    """The words of a command that goes on with what it left, without the flag that would begin anew."""
    kept: list[str] = []
    is_value = False
    for word in words:
        if word.startswith("--"):
            is_value = word == "--overwrite"
            if is_value or word.startswith("--overwrite="):
                continue
        elif is_value:
            continue
        kept.append(word)
    return kept


def split_token(words: list[str]) -> tuple[list[str], str | None]:
    """The words of a command as they may be printed and kept, and the `hub_token` that was among them."""
    kept: list[str] = []
    token, is_token = None, False
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word[2:].partition("=")
            is_token = flag.rpartition(".")[2].replace("-", "_") == "hub_token"
            token = value if is_token and equals else token
        elif is_token:
            token = word
        if not is_token:
            kept.append(word)
    return kept, token


def with_token_aside(stage: str, words: list[str]) -> tuple[list[str], dict[str, str]]:
    """The words of a stage's command and its environment. A token among them goes as HF_TOKEN: everybody on the
    machine can read a command, and accelerate prints that of a stage that failed."""
    kept, token = split_token(words)
    if token is None or token.lower() in {"null", "none"}:
        return words, {**os.environ}
    return [*kept, f"--{stage}.hub_token", "null"], {**os.environ, "HF_TOKEN": token}  # null: nor the recipe's own


def run_stage(command: list[str], **options: Any) -> int:
    """Run a stage's command (`options` are Popen's) to its end and return its exit code. SIGTERM and SIGINT are handed
    on to it, so that it saves before it stops."""
    with subprocess.Popen(command, **options) as stage:

        def hand_on(number: int, frame: object) -> None:
            from_terminal = number == signal.SIGINT and sys.stdin is not None and sys.stdin.isatty()
            if not from_terminal:  # a terminal's Ctrl-C has reached the stage itself
                stage.send_signal(number)

        before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            return stage.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _command_again(words: list[str], own: RunFlags, stage: str) -> str:
    until = ["--until", own.until] if own.until else []
    config = ["--accelerate_config", own.accelerate_config] if own.accelerate_config else []
    words = without_overwrite(split_token(words)[0])
    return shlex.join(["hfgpt", "run", *words, *config, "--from", stage, *until])
