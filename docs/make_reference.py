"""Writes docs/reference.md: every key of a recipe with its type, its default and what it means, read from the
dataclasses that the stages themselves read.

    python docs/make_reference.py           # writes the page
    python docs/make_reference.py --check   # exit code 1 where the committed page is not what it would write
"""

import dataclasses
import sys
import types
import typing
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import transformers
import trl
from transformers import TrainingArguments

from hfgpt.arguments import DataArguments, ModelArguments, TokenizerArguments
from hfgpt.recipe import OWNERS, RunArguments
from hfgpt.training.arguments import REFUSED_KEYS, MidtrainArguments, PretrainArguments, StageArguments
from hfgpt.training.chat_arguments import (
    PREPARED_BY_US,
    ChatSourceArguments,
    DpoArguments,
    GrpoArguments,
    SftArguments,
)

PAGE = Path(__file__).with_name("reference.md")
STAGES: dict[str, type[StageArguments]] = {
    "pretrain": PretrainArguments,
    "midtrain": MidtrainArguments,
    "sft": SftArguments,
    "dpo": DpoArguments,
    "grpo": GrpoArguments,
}
CONFIGS = {"sft": trl.SFTConfig, "dpo": trl.DPOConfig, "grpo": trl.GRPOConfig}
HF_PAGE = "https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments"
TRL_PAGE = "https://huggingface.co/docs/trl/{stage}_trainer#trl.{name}"

# What the keys of HF and TRL that recipes use most mean, in words of our own; the others mean what their pages say.
OFTEN = {
    "activation_checkpointing": "Compute activations anew in the backward pass: less memory, a third more computing.",
    "beta": "What a departure from the model before the stage costs.",
    "dataloader_num_workers": "Processes of each GPU that make batches.",
    "fp16": "float16 compute with loss scaling, for GPUs without bfloat16.",
    "gradient_accumulation_steps": "Passes in one optimizer step; where there is a total_batch_size, it follows.",
    "hub_model_id": "Repo that push_to_hub pushes to; null is `<recipe>-<stage>` of the token's owner.",
    "hub_revision": "Branch that push_to_hub pushes to.",
    "logging_strategy": "When to write a line of metrics.jsonl: steps, epoch or no.",
    "loss_type": "Which loss, by TRL's name; dpo takes several, weighed by loss_weights.",
    "loss_weights": "Weights of several loss_type.",
    "lr_scheduler_kwargs": "Further settings of a schedule of HF's.",
    "max_grad_norm": "Gradients with a larger norm are scaled down to it; 0 turns it off.",
    "max_steps": "Optimizer steps of the stage; -1 leaves the length to other keys.",
    "optim_args": "Settings of an optimizer of HF's, as rank=64,update_proj_gap=50.",
    "output_dir": "Folder of the stage; null is `runs/<recipe>/<stage>`.",
    "project": "Project of trackio that a run belongs to.",
    "push_to_hub": "Push the finished stage to the Hub.",
    "resume_from_checkpoint": "Go on from this checkpoint instead of the newest complete one.",
    "run_name": "Name of the run in a tracker.",
    "save_on_each_node": "One process of each node writes checkpoints, where nodes share no disk.",
    "save_strategy": "When to write checkpoints: steps, epoch or no.",
    "temperature": "Of the answers that are drawn.",
    "top_k": "Draw among the k likeliest tokens; 0 draws among all.",
    "top_p": "Draw among the likeliest tokens that together have this probability.",
    "use_cpu": "Train on the CPU although there is a GPU.",
    "use_vllm": "Generate answers by vLLM, which must be installed.",
    "vllm_mode": "vLLM in the training process (colocate) or as a server of its own (server).",
    "warmup_steps": "Steps of rising rates; below 1, their share of all steps.",
}

INTRODUCTION = """# Every key of a recipe

Written by `docs/make_reference.py` from the dataclasses that the stages read: change those, not this page.

A key stands in the section of its heading, and is a flag too: `--hidden_size 512`, or with its section,
`--model.hidden_size 512` ([how a recipe is read](recipes.md)). `null` leaves the choice to hfgpt: what it then takes
is said beside the key, or is printed with the plan before the first step."""

EVERY_STAGE = """## Every stage
Keys of `pretrain`, `midtrain`, `sft`, `dpo` and `grpo` alike: those that hfgpt adds to HF's `TrainingArguments`, or
gives another default. A default that a stage sets anew stands in that stage's own table."""

FROM_HF = """## Every stage: HF's keys
The other keys of `transformers.TrainingArguments` {version} work under their own names and mean what
[HF's page]({page}) says."""

FROM_TRL = """### {stage}: TRL's keys
The other keys of `trl.{name}` {version} mean what [TRL's page]({page}) says."""

REFUSED = """## Keys that are refused
HF and TRL have them; here they would do nothing, or harm, and end with a sentence.

| key | why |
|---|---|"""


def page() -> str:
    """The whole page, as Markdown that ends with a line break."""
    parts = [INTRODUCTION]
    for name, section in (("model", ModelArguments), ("tokenizer", TokenizerArguments), ("data", DataArguments)):
        parts += [f"## {name}\n{_said_of(section)}", _table(section, _keys(section))]
    parts += [EVERY_STAGE, _table(StageArguments, _own_keys(StageArguments))]
    text_keys = {"pretrain": PretrainArguments, "midtrain": MidtrainArguments}
    for stage, section in text_keys.items():
        parts += [f"## {stage}\n{_said_of(section)}", _table(section, _own_keys(section))]
    parts += ["## sft, dpo, grpo\n" + _said_of(ChatSourceArguments)]
    parts += [_table(ChatSourceArguments, _own_keys(ChatSourceArguments))]
    for stage, config in CONFIGS.items():
        section = STAGES[stage]
        parts += [f"## {stage}\n{_said_of(section)}", _table(section, _own_keys(section))]
        where = TRL_PAGE.format(stage=stage, name=config.__name__)
        parts += [FROM_TRL.format(stage=stage, name=config.__name__, page=where, version=trl.__version__)]
        parts += [_table(section, _inherited_keys(section, config, besides=TrainingArguments))]
    parts += [FROM_HF.format(page=HF_PAGE, version=transformers.__version__)]
    parts += [_table(StageArguments, _inherited_keys(StageArguments, TrainingArguments))]
    refused = [f"| `{key}` | {reason} |" for key, reason in REFUSED_KEYS.items()]
    refused += [f"| `sft.{key}` | hfgpt renders, labels and packs conversations itself |" for key in PREPARED_BY_US]
    parts += ["\n".join([REFUSED, *refused])]
    parts += ["## Flags of every command that reads a recipe\nThey are about a run, not part of a recipe."]
    parts += [_table(RunArguments, _keys(RunArguments))]
    return "\n\n".join(parts) + "\n"


def _said_of(section: type) -> str:
    """The class's own words, each paragraph on its lines, without the code's indentation."""
    lines = (section.__doc__ or "").strip().splitlines()
    return "\n".join(line.strip() for line in lines)


def _keys(section: type) -> list[str]:
    return [field.name for field in dataclasses.fields(section)]


def _own_keys(section: type) -> list[str]:
    """The keys that this class itself states, in its order."""
    own = [key for key in section.__annotations__ if key in section.__dataclass_fields__]
    return [key for key in own if not _is_class_variable(section.__annotations__[key])]


def _is_class_variable(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.ClassVar


def _inherited_keys(section: type, origin: type, besides: type | None = None) -> list[str]:
    """The keys of HF's or TRL's class `origin` that no class of ours states, that no other section owns, that are not
    refused, and that `besides` has not."""
    ours = {key for base in _our_classes(section) for key in base.__annotations__}
    left_out = ours | {*OWNERS, *REFUSED_KEYS, "num_train_epochs"}  # of which every stage states its own
    left_out |= set(_keys(besides) if besides else ())
    if section is SftArguments:
        left_out |= set(PREPARED_BY_US)
    return sorted(field.name for field in dataclasses.fields(origin) if field.init and field.name not in left_out)


def _table(section: type, keys: Iterable[str]) -> str:
    hints = typing.get_type_hints(section)
    fields = {field.name: field for field in dataclasses.fields(section)}
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key in keys:
        cells = [f"`{key}`", type_in_words(hints[key]), f"`{_default(fields[key])}`", _help(section, key)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _help(section: type, key: str) -> str:
    """What hfgpt says of a key: the class of ours that states it, else `OFTEN`, else nothing."""
    if any(key in base.__annotations__ for base in _our_classes(section)):
        return {field.name: field for field in dataclasses.fields(section)}[key].metadata["help"]
    return OFTEN.get(key, "")


def _our_classes(section: type) -> list[type]:
    return [base for base in section.__mro__ if base.__module__.startswith("hfgpt.")]


def type_in_words(hint: Any) -> str:
    """A field's type as a reader of YAML knows it, as `whole number or null`."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        words = [type_in_words(option) for option in options if option is not type(None)]
        words += ["null"] if type(None) in options else []
        return " or ".join(dict.fromkeys(words))
    if origin is Literal:
        return " or ".join(f"`{option}`" for option in options)
    if (origin or hint) is list:
        return f"list of {type_in_words(options[0])}" if options else "list"
    if (origin or hint) is dict:
        return "map"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "text"
    plain = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "any"}
    return plain.get(hint, "map")


def _default(field: dataclasses.Field) -> str:
    """A default as YAML writes it."""
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(str(item) for item in value)}]"
    return "''" if value == "" else str(value)


def main(argv: list[str]) -> int:
    text = page()
    if argv == ["--check"]:
        return int(PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
