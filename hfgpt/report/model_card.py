"""The model card of each stage: README.md with the Hub's metadata, scores in its model-index form, how to use it."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfgpt.model.saved_files import needs_remote_code
from hfgpt.report.document import plain
from hfgpt.report.plots import LOSS_PLOT
from hfgpt.report.summary import samples_before_and_after
from hfgpt.report.tables import markdown_table, short_number, short_time
from hfgpt.report.timeline import StageHistory, Timeline
from hfgpt.run_identity import START_IS_ON_HUB
from hfgpt.whole_files import read_object

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

MADE_HERE = "<!-- written by hfgpt report; remove this line to keep the card as it is -->"
CHAT_STAGES = ("midtrain", "sft", "dpo", "grpo")


def write_model_cards(timeline: Timeline) -> list[Path]:
    """Write README.md into every complete stage; one that is not ours, or that a person has taken over, is left
    alone."""
    written = []
    for stage in timeline.stages:
        path = stage.folder / "README.md"
        if stage.final is None or (path.is_file() and MADE_HERE not in path.read_text(encoding="utf-8")):
            continue
        path.write_text(model_card(timeline, stage), encoding="utf-8")
        written.append(path)
    return written


def model_card(
    timeline: Timeline,
    stage: StageHistory,
    *,
    repo_id: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
) -> str:
    """The card of one complete stage, for the repo `repo_id` where it is going to one. The licence is left for its
    owner to say: it depends on the data. `base_model` is by default the Hub's model that the stage started from."""
    name = repo_id.split("/")[-1] if repo_id else f"{timeline.name}-{stage.name}"
    results = eval_results(stage)
    start = (stage.recipe.get(stage.name) or {}).get("model_name_or_path")
    header = _header(
        license=license,
        base_model=base_model or (_hub_id(start) if stage.identity.get(START_IS_ON_HUB) else None),
        datasets=_hub_datasets(stage),
        tags=["hfgpt", stage.name, *(["conversational"] if stage.name in CHAT_STAGES else [])],
        model_name=name if results else None,
        eval_results=results or None,
    )
    final = stage.final or {}
    trained = (
        f"{short_number(final['parameters'])} parameters; {stage.name} on {short_number(final['tokens'])} tokens in "
        f"{short_time(final['seconds'])}, {short_number(stage.end)} tokens in all stages together."
    )
    parts = [header, f"# {plain(name)}", trained, _how_to_use(repo_id, stage.name in CHAT_STAGES, has_code=True)]
    if results:
        rows = [[r.dataset_name, r.metric_name or r.metric_type, f"{r.metric_value:.4f}"] for r in results]
        parts += ["## Scores", markdown_table(["task", "metric", "value"], rows, 2)]
    if samples := samples_before_and_after(stage.folder):
        said = [[plain(prompt), plain(before or "-"), plain(after)] for prompt, before, after in samples]
        titles = ["prompt", f"before {stage.name}", f"after {stage.name}"]
        parts += ["## What it said", markdown_table(titles, said, len(titles))]
    if (stage.folder / LOSS_PLOT).is_file():
        parts += ["## Training", f"![loss over tokens]({LOSS_PLOT})"]
    return "\n\n".join(parts) + "\n"


def plain_card(folder: Path, repo_id: str, license: str | None = None, base_model: str | None = None) -> str:
    """The card of a model of which no more is known than its folder."""
    is_chat = _is_chat_model(folder)
    tags = ["hfgpt", *(["conversational"] if is_chat else [])]
    header = _header(license=license, base_model=base_model, tags=tags)
    how = _how_to_use(repo_id, is_chat, needs_remote_code(folder))
    return "\n\n".join([header, f"# {plain(repo_id.split('/')[-1])}", how]) + "\n"


def _is_chat_model(folder: Path) -> bool:
    """As the chat decides it (chat/engine.py): a base model has no template, or stops where a document begins too."""
    tokenizer, generation = (
        read_object(path) or {} if (path := folder / name).is_file() else {}
        for name in ("tokenizer_config.json", "generation_config.json")
    )
    stop, has_bos = generation.get("eos_token_id"), tokenizer.get("bos_token") is not None
    is_base = isinstance(stop, list) and has_bos and generation.get("bos_token_id") in stop
    return ((folder / "chat_template.jinja").is_file() or "chat_template" in tokenizer) and not is_base


def _header(**values: Any) -> str:
    """The Hub's metadata and the mark that the card is ours."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(library_name="transformers", pipeline_tag="text-generation", **values)
    return f"---\n{data.to_yaml()}\n---\n\n{MADE_HERE}"


def _hub_id(name: Any) -> str | None:
    """`name` where it has the form of a repo of the Hub."""
    return name if isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) else None


def _hub_datasets(stage: StageHistory) -> list[str] | None:
    """The Hub's datasets that the recipe names for the stage; by `dataset` it can name no folder."""
    section = stage.recipe.get(stage.name) or {}
    sources = [stage.recipe.get("data") or {}, *(section.get("mixture") or [])]
    if stage.name in CHAT_STAGES:
        sources = [section, *sources[1:]]
    found = (_hub_id(source.get("dataset")) for source in sources)
    return list(dict.fromkeys(name for name in found if name)) or None


def eval_results(stage: StageHistory) -> list["EvalResult"]:
    """What was measured at the stage's last scored step, as the Hub's model-index says it."""
    from huggingface_hub import EvalResult

    if not stage.scores:
        return []
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=task,
            dataset_name=task,
            metric_type=metric,
            metric_name=metric,
            metric_value=round(value, 6),
        )
        for task, metrics in stage.scores[max(stage.scores)].items()
        for metric, value in metrics.items()
        if not metric.endswith("stderr")
    ]


def _how_to_use(repo_id: str | None, is_chat: bool, has_code: bool) -> str:
    """A snippet that loads the model and continues a text, or answers a message."""
    loaded = "from_pretrained(name, trust_remote_code=True)" if has_code else "from_pretrained(name)"
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'name = "{repo_id}"' if repo_id else 'name = "."  # this folder, or the repo on the Hub',
        f"tokenizer = AutoTokenizer.{loaded}",
        f"model = AutoModelForCausalLM.{loaded}",
    ]
    if is_chat:
        lines += [
            'messages = [{"role": "user", "content": "Who are you?"}]',
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
            ")",
        ]
    else:
        lines.append('inputs = tokenizer("Once upon a time", return_tensors="pt")')
    lines += [
        'answer = model.generate(input_ids=inputs["input_ids"], max_new_tokens=40)',
        "print(tokenizer.decode(answer[0]))",
    ]
    return "```python\n" + "\n".join(lines) + "\n```"
