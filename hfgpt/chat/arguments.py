"""What the command lines of chat, web, serve and space have in common: a parser whose complaints are UserErrors, the
flags for sampling, and which model a name stands for. Imports no torch until a model is loaded."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hfgpt.chat.sampling import Sampling
from hfgpt.errors import UserError
from hfgpt.recipe import STAGES, RunArguments
from hfgpt.workspace import FINAL_METRICS

if TYPE_CHECKING:
    from hfgpt.chat.engine import Engine

MODEL_FILES = ("config.json", "adapter_config.json")  # of a whole model, of LoRA weights
DTYPES = ("float32", "bfloat16", "float16")
# Name of a field of Sampling, type of its values, help. The terminal has a /command for each of them.
SAMPLING_FLAGS: dict[str, tuple[type, str]] = {
    "temperature": (float, "0 always takes the likeliest token; higher is more varied"),
    "top_k": (int, "sample from the k likeliest tokens only; 0 from all of them"),
    "top_p": (float, "sample from the likeliest tokens that hold this share of the probability; 1 from all of them"),
    "repetition_penalty": (float, "above 1, tokens that were there before become less likely"),
    "max_new_tokens": (int, "longest answer, in tokens"),
    "seed": (int, "the same seed gives the same answers"),
}
NO_LIMIT = {"top_k": 0, "top_p": 1.0}  # what a user writes for None


class Parser(argparse.ArgumentParser):
    """Raises UserError where argparse would print its usage and exit; `--help` prints and exits with 0. Flags may be
    written with hyphens."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        if args is not None:
            args = [_underscored(word) for word in args]
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            close = difflib.get_close_matches(unknown[0].partition("=")[0], self._option_string_actions, n=1)
            self.error(f"{unknown[0]} is not known" + (f"; the nearest is {close[0]}" if close else ""))
        return known

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: see {self.prog} --help.")


def _underscored(word: str) -> str:
    name, equals, value = word.partition("=")
    is_flag = name.startswith("--") and name.strip("-") and " " not in name
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if is_flag else word


def parser(prog: str, description: str) -> Parser:
    """A parser for `prog` ("hfgpt chat") with the flag `--debug`, which `run_command` looks for."""
    made = Parser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return made


def add_model(parser: argparse.ArgumentParser) -> None:
    """`DIR` (dest `model`), `--device`, `--dtype` and `--trust_remote_code`, for `load_engine`."""
    parser.add_argument(
        "model",
        metavar="DIR",
        help="a model's folder, a run's folder (its latest complete stage is taken), or a Hub id as gpt2",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the GPU where there is one)")
    parser.add_argument("--dtype", choices=DTYPES, help="precision of the weights (default: the engine's choice)")
    parser.add_argument("--trust_remote_code", action="store_true", help="run the Python code that comes with a model")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """One flag for each field of Sampling, by the field's name."""
    group = parser.add_argument_group("sampling")
    for field in dataclasses.fields(Sampling):
        kind, text = SAMPLING_FLAGS[field.name]
        default = NO_LIMIT.get(field.name) if field.default is None else field.default
        shown = "" if default is None else f" (default: {default})"
        group.add_argument(f"--{field.name}", type=kind, metavar="X", default=default, help=text + shown)


def sampling_of(namespace: argparse.Namespace) -> Sampling:
    """The Sampling that the flags of `add_sampling` say. Raises UserError for nonsense (a temperature below 0)."""
    given = {field.name: vars(namespace)[field.name] for field in dataclasses.fields(Sampling)}
    values: dict[str, Any] = {name: None if value == NO_LIMIT.get(name) else value for name, value in given.items()}
    return Sampling(**values)


def with_setting(sampling: Sampling, name: str, word: str) -> Sampling:
    """`sampling` with its field `name` as a user typed it; "off" stands for None. Raises UserError for nonsense."""
    kind, _ = SAMPLING_FLAGS[name]
    try:
        value: Any = None if word == "off" else kind(word)
    except ValueError:
        raise UserError(f"{name} takes a {'whole number' if kind is int else 'number'}, not {word!r}.") from None
    changed: dict[str, Any] = {name: None if value == NO_LIMIT.get(name) else value}
    return dataclasses.replace(sampling, **changed)


def complete_stages(folder: Path) -> list[Path]:
    """Folders of the complete stages of the run in `folder`, earliest first."""
    return [folder / stage for stage in STAGES if (folder / stage / FINAL_METRICS).is_file()]


def model_name(name: str) -> str:
    """What to load for `name`: itself, or the latest complete stage where it is a run's folder.

    Raises UserError for a folder that is missing or is neither a model nor a run.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        is_path = (
            name.startswith((".", "/", "~"))
            or name.count("/") > 1
            or Path(name).parts[:1] == (RunArguments.output_root,)
        )
        if is_path or folder.exists():
            raise UserError(f"there is no folder {name}: name a model's folder, a run's folder or a Hub id.")
        return name
    if any((folder / file).is_file() for file in MODEL_FILES):
        return str(folder)
    stages = complete_stages(folder)
    if stages:
        return str(stages[-1])
    begun = [stage for stage in STAGES if (folder / stage).is_dir()]
    if begun:
        raise UserError(f"no stage of {name} is complete yet (begun: {', '.join(begun)}): finish one first.")
    checkpoints = sorted(folder.glob("checkpoint-[0-9]*/config.json"), key=lambda path: path.stat().st_mtime)
    if checkpoints:
        raise UserError(f"the stage in {name} is not complete: finish it, or name {checkpoints[-1].parent}.")
    raise UserError(f"{name} holds no model (config.json) and no complete stage of a run.")


def load_engine(namespace: argparse.Namespace, name: str | None = None) -> Engine:
    """The engine for `name`, by default the command line's model, on its device. Raises UserError."""
    import torch
    from transformers.utils import logging

    from hfgpt.chat.engine import Engine

    logging.disable_progress_bar()
    if namespace.device is not None:
        try:
            torch.empty(0, device=namespace.device)
        except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"--device {namespace.device} cannot be used here: {reason}") from None
    return Engine.from_pretrained(
        model_name(namespace.model if name is None else name),
        device=namespace.device,
        dtype=namespace.dtype and vars(torch)[namespace.dtype],
        trust_remote_code=namespace.trust_remote_code,
    )
