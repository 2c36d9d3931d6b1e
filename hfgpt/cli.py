"""The `hfgpt` command: every stage and tool as a subcommand. Thin: what a command does is imported when it runs."""

import difflib
import platform
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated

import typer

from hfgpt import __version__
from hfgpt.errors import UserError, run_command
from hfgpt.package_versions import STACK, installed_versions

app = typer.Typer(
    help="Train your own ChatGPT from raw text, where every piece is a HuggingFace piece.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
tokenizer_app = typer.Typer(help="Train a tokenizer, or look at one.", no_args_is_help=True)
data_app = typer.Typer(help="Download, prepare and look at training data.", no_args_is_help=True)
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(data_app, name="data")


@app.callback(invoke_without_command=True)
def _hfgpt(version: Annotated[bool, typer.Option("--version", help="Print versions.")] = False) -> None:
    if version:
        versions = {"hfgpt": __version__, "Python": platform.python_version()}
        for name, number in (versions | installed_versions(STACK)).items():
            print(name, number)
        raise typer.Exit


RECIPE_WORDS = "[RECIPE] [--key value ...]"
ANY_RUN = "hfgpt.recipe:RunArguments"  # the flags of whatever reads a recipe


def _command(
    group: typer.Typer, name: str, where: str, help: str, words: str = RECIPE_WORDS, flags: tuple[str, ...] = ()
) -> None:
    """Add a subcommand that hands all its arguments to the function `where` ("module:function").

    `flags` names the dataclasses ("module:class") that declare the flags of one that takes a recipe.
    """
    module, _, function = where.partition(":")
    takes_recipe = words == RECIPE_WORDS

    def command(context: typer.Context) -> None:
        if takes_recipe and "--help" in context.args:
            typer.echo(context.get_help())
            from hfgpt.command_help import print_flags

            print_flags([*flags])
            return
        body: Callable[[list[str]], int | None] = getattr(import_module(module), function)
        raise typer.Exit(run_command(body, context.args))

    settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    # The commands that take a folder have an argument parser, and with it help, of their own.
    group.command(name, help=help, context_settings=settings, options_metavar=words, add_help_option=False)(command)


_command(
    app,
    "pretrain",
    "hfgpt.pretrain:main",
    "Text to a base model. Any key of the recipe is a flag: hfgpt pretrain recipes/tiny.yaml --learning_rate 0.01",
    flags=(
        "hfgpt.training.arguments:PretrainArguments",
        ANY_RUN,
    ),
)
_command(
    app,
    "midtrain",
    "hfgpt.midtrain:main",
    "A base model goes on over text and conversations: hfgpt midtrain recipes/tiny.yaml",
    flags=(
        "hfgpt.training.arguments:MidtrainArguments",
        ANY_RUN,
    ),
)
_command(
    app,
    "sft",
    "hfgpt.sft:main",
    "A model learns to answer: hfgpt sft recipes/tiny.yaml --sft.data_path my_conversations.jsonl",
    flags=(
        "hfgpt.training.chat_arguments:SftArguments",
        ANY_RUN,
    ),
)
_command(
    app,
    "dpo",
    "hfgpt.dpo:main",
    "A chat model learns which answers are preferred: hfgpt dpo recipes/tiny.yaml --beta 0.05",
    flags=(
        "hfgpt.training.chat_arguments:DpoArguments",
        ANY_RUN,
    ),
)
_command(
    app,
    "grpo",
    "hfgpt.grpo:main",
    "A chat model learns from answers that can be checked: hfgpt grpo recipes/tiny.yaml --num_generations 16",
    flags=(
        "hfgpt.training.chat_arguments:GrpoArguments",
        ANY_RUN,
    ),
)
_command(
    app,
    "run",
    "hfgpt.run:main",
    "Every stage of a recipe, in order, then its report card: hfgpt run recipes/tiny.yaml --from sft",
    flags=(
        "hfgpt.run:RunFlags",
        ANY_RUN,
    ),
)
_command(
    app,
    "sweep",
    "hfgpt.sweep:main",
    "Every combination of keys with several values, and scaling laws: hfgpt sweep recipes/tiny.yaml --depth 2 4 6",
    flags=("hfgpt.sweep:SweepFlags",),
)
_command(
    app,
    "compare",
    "hfgpt.compare:main",
    "Runs side by side, as a table and a picture: hfgpt compare runs/tiny runs/other",
    "RUN RUN ... [--key value ...]",
)
_command(
    app,
    "leakage",
    "hfgpt.leakage:main",
    "Which questions of the evaluations a run was trained on: hfgpt leakage runs/tiny --tasks hellaswag",
    "RUN [--key value ...]",
)
_command(
    app,
    "eval",
    "hfgpt.eval:main",
    "What models can do, side by side, by lm-eval's tasks and CORE: hfgpt eval runs/tiny gpt2 --tasks core,hellaswag",
    "MODEL MODEL ... [--key value ...]",
)
_command(
    app,
    "report",
    "hfgpt.report.command:main",
    "The report card of a run, and model cards of its stages: hfgpt report runs/tiny",
    "RUN [--key value ...]",
)
_command(
    app,
    "chat",
    "hfgpt.chat.terminal:main",
    "Talk to a model in the terminal: hfgpt chat runs/tiny",
    "DIR [--key value ...]",
)
_command(
    app,
    "web",
    "hfgpt.chat.web:main",
    "Talk to a run's models in the browser: hfgpt web runs/tiny",
    "DIR [--key value ...]",
)
_command(
    app,
    "serve",
    "hfgpt.chat.serve:main",
    "An OpenAI-compatible API: hfgpt serve runs/tiny",
    "DIR [--key value ...]",
)
_command(
    app,
    "space",
    "hfgpt.chat.space:main",
    "A folder that is a ready HuggingFace Space: hfgpt space runs/tiny --output_dir my_space",
    "DIR [--key value ...]",
)
_command(
    app,
    "push",
    "hfgpt.hub.command:main",
    "A model to the Hub, with card, scores, samples and plots: hfgpt push runs/tiny you/tiny",
    "DIR REPO [--key value ...]",
)
_command(
    app,
    "import",
    "hfgpt.conversion.import_model:main",
    "GPT-2, Llama, Qwen3 or nanochat becomes a model of hfgpt: hfgpt import gpt2 --output_dir models/gpt2",
    "SRC [--key value ...]",
)
_command(
    app,
    "export",
    "hfgpt.conversion.export_model:main",
    "A model becomes one that transformers ships: hfgpt export runs/gpt2/sft --to gpt2 --output_dir exported",
    "MODEL [--key value ...]",
)
_command(
    app,
    "plan",
    "hfgpt.plan:main",
    "FLOPs, memory, hours and dollars before anything runs: hfgpt plan recipes/d20.yaml --gpu H100 --num_gpus 8",
    flags=("hfgpt.plan:PlanArguments",),
)
_command(
    app,
    "bench",
    "hfgpt.bench.command:main",
    "Speed, memory and decoding on this machine: hfgpt bench recipes/d12.yaml --vs loop trainer",
    flags=("hfgpt.bench.command:BenchArguments",),
)
_command(
    app,
    "doctor",
    "hfgpt.doctor.command:main",
    "Whether this machine is ready, and what mends it where not: hfgpt doctor",
    "[--key value ...]",
)
_command(
    tokenizer_app,
    "train",
    "hfgpt.commands:tokenizer_train",
    "Train, or fetch, a recipe's tokenizer: hfgpt tokenizer train recipes/tiny.yaml --vocab_size 8192",
    flags=(ANY_RUN,),
)
_command(
    tokenizer_app,
    "stats",
    "hfgpt.commands:tokenizer_stats",
    "Bytes per token on the recipe's own text: hfgpt tokenizer stats recipes/tiny.yaml --compare NAME ...",
    flags=(
        "hfgpt.commands:StatsArguments",
        ANY_RUN,
    ),
)
_command(
    data_app,
    "prepare",
    "hfgpt.commands:data_prepare",
    "Tokenize and pack a recipe's text: hfgpt data prepare recipes/tiny.yaml --num_proc 8",
    flags=(
        "hfgpt.commands:PrepareArguments",
        ANY_RUN,
    ),
)
_command(
    data_app,
    "inspect",
    "hfgpt.commands:data_inspect",
    "Statistics and a few packed rows of prepared data: hfgpt data inspect recipes/tiny.yaml",
    flags=(
        "hfgpt.commands:InspectArguments",
        ANY_RUN,
    ),
)
_command(
    data_app,
    "download",
    "hfgpt.dataset:main",
    "Download the first files of a Hub dataset: hfgpt data download -n 8 --dataset HuggingFaceFW/fineweb-edu",
    "[-n N] [--key value ...]",
)
_command(
    data_app,
    "push",
    "hfgpt.commands:data_push",
    "Push a recipe's prepared rows to the Hub: hfgpt data push recipes/tiny.yaml --repo_id you/tiny-rows",
    flags=(
        "hfgpt.commands:PushArguments",
        ANY_RUN,
    ),
)


def main(argv: list[str] | None = None) -> int:
    """Run `hfgpt ARGV`; returns the exit code: 0, 2 where the user can mend it, 1 where we must."""
    return run_command(_run, argv)


def _run(argv: list[str]) -> int:
    _check_command(app, argv)
    try:
        app(args=argv)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _check_command(group: typer.Typer, words: list[str], program: str = "hfgpt") -> None:
    """Raises UserError for a command that does not exist, and for an unknown flag in front of it."""
    if not words or words[0] in ("--help", "--version"):
        return
    groups = {str(inner.name): inner.typer_instance for inner in group.registered_groups if inner.typer_instance}
    known = [str(command.name) for command in group.registered_commands] + list(groups)
    word = words[0]
    if word in groups:
        _check_command(groups[word], words[1:], f"{program} {word}")
    elif word not in known:
        what, others = ("flag", ["--help", "--version"]) if word.startswith("-") else ("command", known)
        close = difflib.get_close_matches(word, others, n=1)
        nearest = f"; the nearest is {close[0]}" if close else ""
        raise UserError(f"{program} has no {what} {word}{nearest}: see {program} --help.")


if __name__ == "__main__":
    sys.exit(main())
