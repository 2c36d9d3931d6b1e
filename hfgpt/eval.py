"""`hfgpt eval MODEL ...`: what models can do, side by side.

hfgpt eval runs/tiny --tasks tinyworld,tinyworld_chat          # the latest complete stage of a run
hfgpt eval runs/tiny/pretrain runs/tiny/sft --tasks tinyworld  # several, in one table
hfgpt eval gpt2 --tasks hellaswag,core --limit 200             # a model of the Hub
hfgpt eval runs/tiny --tasks bpb --bpb_text book.txt           # bits per byte of any text
accelerate launch -m hfgpt.eval runs/d20 --tasks core          # questions shared out over the GPUs

Results are kept by the model's weights and by what decides a task's questions; the same command after a kill goes on
where it stopped. Exit code 2 and one sentence for what is yours to mend.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfgpt.chat.arguments import DTYPES, model_name, parser
from hfgpt.errors import UserError, run_command
from hfgpt.eval_results import left_out_sentences, results_table, write_results, write_samples

if TYPE_CHECKING:
    from accelerate import PartialState
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfgpt.evals.harness import Evaluation, TaskSettings

TASKS = "core"


def main(argv: list[str] | None = None) -> int:
    """The command. Raises UserError for arguments, a model or a task that cannot be used."""
    args = parse_args(argv)
    locations = {name: model_name(name) for name in args.models}
    settings = {name: settings_for(args, location) for name, location in locations.items()}

    import datasets
    import torch
    from accelerate import PartialState
    from transformers.utils import logging

    from hfgpt.evals.result_cache import model_fingerprint

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    state = PartialState(cpu=not torch.cuda.is_available())
    say: Callable[[str], None] = print if state.is_main_process else lambda text: None
    evaluations: dict[str, Evaluation] = {}
    for name, location in locations.items():
        dtype = args.dtype or ("bfloat16" if state.device.type == "cuda" else "float32")
        with state.main_process_first():  # which downloads what the others read
            fingerprint = model_fingerprint(location)
        model = Model(location, fingerprint, dtype, args.trust_remote_code, state)
        for task in args.tasks:
            say(f"{name}: {task}")
            found = evaluate_cached(model, task, settings[name], args)
            evaluations[name] = evaluations[name] | found if name in evaluations else found
            if state.is_main_process and args.output_path:
                write_results(args.output_path, evaluations, args.limit)
                write_samples(args.output_path, name, found)
    say("\n" + results_table(evaluations))
    for sentence in sorted({text for found in evaluations.values() for text in left_out_sentences(found)}):
        say(sentence)
    if args.output_path:
        say(f"results in {args.output_path}")
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line. Raises UserError for what makes no sense."""
    flags = parser("hfgpt eval", __doc__ or "")
    flags.add_argument("models", nargs="+", metavar="MODEL", help="a model's folder, a run's folder, or a Hub id")
    flags.add_argument("--tasks", default=TASKS, metavar="A,B", help=f"tasks and groups of lm-eval (default: {TASKS})")
    flags.add_argument("--limit", type=int, metavar="N", help="questions of each task (default: all)")
    flags.add_argument("--num_fewshot", type=int, metavar="N", help="examples before a question, where a task allows")
    flags.add_argument("--output_path", type=Path, metavar="F.json", help="write the results as JSON")
    flags.add_argument("--log_samples", action="store_true", help="write every question and answer beside the results")
    flags.add_argument("--batch_size", default="auto", metavar="N", help="questions at a time (default: what fits)")
    flags.add_argument("--dtype", choices=DTYPES, help="precision (default: bfloat16 on a GPU, float32 on a CPU)")
    flags.add_argument("--apply_chat_template", action="store_true", help="ask every task in chat form")
    flags.add_argument("--trust_remote_code", action="store_true", help="run the Python code that comes with a model")
    flags.add_argument("--allow_code", action="store_true", help="run programs that the model writes (humaneval)")
    flags.add_argument("--no_cache", action="store_true", help="ask again what was asked before")
    flags.add_argument("--cache_dir", type=Path, metavar="DIR", help="where results are kept (default: below HF_HOME)")
    data = flags.add_argument_group("data of tasks")
    data.add_argument("--core_bundle", metavar="DIR", help="CORE's eval bundle, a folder or zip (default: downloaded)")
    data.add_argument("--bpb_text", nargs="+", default=[], metavar="FILE", help="text for the task bpb")
    data.add_argument(
        "--task_data", nargs="+", default=[], metavar="TASK=FOLDER", help="a local copy of the data of a task"
    )
    data.add_argument("--include_path", type=Path, metavar="DIR", help="a folder with tasks of your own")
    data.add_argument("--metadata", default="{}", metavar="JSON", help="for tasks, as lm-eval's")
    args = flags.parse_args(sys.argv[1:] if argv is None else argv)
    args.tasks = list(dict.fromkeys(task.strip() for task in args.tasks.split(",") if task.strip()))
    args.metadata = _json_object(args.metadata)
    if not args.tasks:
        raise UserError("--tasks names no task: give some, as --tasks core,hellaswag.")
    for flag in ("limit", "num_fewshot"):
        least = 1 if flag == "limit" else 0
        if vars(args)[flag] is not None and vars(args)[flag] < least:
            raise UserError(f"--{flag} must be at least {least}, not {vars(args)[flag]}.")
    if args.batch_size != "auto" and not re.fullmatch(r"[1-9]\d*", args.batch_size):
        raise UserError(f"--batch_size must be auto or a number above zero, not {args.batch_size}.")
    if "bpb" in args.tasks and not args.bpb_text and "bpb_text" not in args.metadata:
        raise UserError("bpb needs a text to measure: name files by --bpb_text FILE ...")
    if args.log_samples and not args.output_path:
        raise UserError("--log_samples writes beside the results: say where by --output_path F.json.")
    if args.include_path and not args.include_path.is_dir():
        raise UserError(f"--include_path {args.include_path}: there is no such folder.")
    for word in args.task_data:
        if not re.fullmatch(r"[^=]+=.+", word):
            raise UserError(f"--task_data takes TASK=FOLDER, as hellaswag=data/hellaswag, not {word}.")
    return args


def _json_object(word: str) -> dict[str, Any]:
    try:
        value = json.loads(word)
    except json.JSONDecodeError as error:
        raise UserError(f"--metadata is not JSON ({error}).") from error
    if not isinstance(value, dict):
        raise UserError(f"--metadata must be a JSON object, as '{{\"seed\": 7}}', not {word}.")
    return value


def settings_for(args: argparse.Namespace, location: str) -> TaskSettings:
    """What the command line says of the questions; of the tiny world's, what the model's recipe says."""
    from hfgpt.evals.harness import TaskSettings

    metadata = world_of(Path(location))
    if args.core_bundle:
        metadata["core_bundle"] = args.core_bundle
    if args.bpb_text:
        metadata["bpb_text"] = args.bpb_text
    return TaskSettings(
        limit=args.limit,
        num_fewshot=args.num_fewshot,
        metadata=metadata | args.metadata,
        include_path=args.include_path,
        task_data={name: Path(folder) for name, _, folder in (word.partition("=") for word in args.task_data)},
        apply_chat_template=args.apply_chat_template,
    )


def world_of(folder: Path) -> dict[str, Any]:
    """The tiny world that a stage's model, or one of its checkpoints, was trained on; nothing where no recipe lies."""
    from hfgpt.recipe import read_recipe_file
    from hfgpt.workspace import RECIPE_FILE

    stage = folder.parent if folder.name.startswith("checkpoint-") else folder
    if not (stage / RECIPE_FILE).is_file():
        return {}
    sections, _ = read_recipe_file(stage / RECIPE_FILE)
    data = sections.get("data", {})
    return {key: data[key] for key in ("tinyworld_people", "seed") if key in data}


class Model:
    """A model that is loaded when a question is asked, which cached results spare it."""

    def __init__(self, location: str, fingerprint: str, dtype: str, trust_remote_code: bool, state: PartialState):
        self.location, self.fingerprint, self.dtype = location, fingerprint, dtype
        self.trust_remote_code, self.state = trust_remote_code, state
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model on this process's device, and its tokenizer. Raises UserError where it cannot be loaded."""
        if self._loaded is None:
            import torch
            from transformers import AutoTokenizer

            from hfgpt.model.loading import load_whole
            from hfgpt.training.hardware import keep_freed_memory

            trust = {"trust_remote_code": self.trust_remote_code}
            with self.state.main_process_first():
                model = load_whole(self.location, dtype=vars(torch)[self.dtype], **trust)
                try:
                    tokenizer = AutoTokenizer.from_pretrained(self.location, **trust)
                except Exception as error:  # of huggingface_hub, tokenizers and the model's own code
                    reason = " ".join(str(error).split())[:400]
                    raise UserError(f"the tokenizer of {self.location} cannot be loaded: {reason}") from error
            self._loaded = model.to(self.state.device).eval(), tokenizer
            if self.state.device.type == "cpu":
                keep_freed_memory()  # logits of one batch after the other
        return self._loaded


def evaluate_cached(model: Model, task: str, settings: TaskSettings, args: argparse.Namespace) -> Evaluation:
    """The scores of a task or group: from the cache where the main process finds them there, else asked for."""
    from accelerate.utils import broadcast_object_list

    from hfgpt.evals.harness import run_tasks
    from hfgpt.evals.result_cache import CachedResult

    cached = CachedResult(model.fingerprint, task, settings, model.dtype, args.cache_dir)
    box = [None if args.no_cache or not model.state.is_main_process else cached.load(args.log_samples)]
    found = broadcast_object_list(box)[0]
    if found is None:
        found = run_tasks(
            *model.load(),
            [task],
            settings,
            batch_size=None if args.batch_size == "auto" else int(args.batch_size),
            progress=True,
            log_samples=args.log_samples,
            allow_code=args.allow_code,
            answers=None if args.no_cache else cached.answers,
        )
        if model.state.is_main_process:
            cached.store(found)
            shutil.rmtree(cached.answers, ignore_errors=True)
        model.state.wait_for_everyone()
    return found


if __name__ == "__main__":
    sys.exit(run_command(main))
