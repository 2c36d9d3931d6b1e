"""A small eval bundle in nanochat's layout: every kind of question, with examples or without; one task lacks data."""

import json
import shutil
from pathlib import Path

import yaml

TASKS = [
    {"label": "copa", "num_fewshot": [0], "icl_task_type": "multiple_choice"},
    {"label": "piqa", "num_fewshot": [3], "icl_task_type": "multiple_choice", "continuation_delimiter": "\nAnswer: "},
    {"label": "winograd", "num_fewshot": [0], "icl_task_type": "schema"},
    {"label": "winogrande", "num_fewshot": [2], "icl_task_type": "schema"},
    {"label": "lambada_openai", "num_fewshot": [0], "icl_task_type": "language_modeling"},
    {"label": "jeopardy", "num_fewshot": [2], "icl_task_type": "language_modeling", "continuation_delimiter": "\nA: "},
    {"label": "squad", "num_fewshot": [2], "icl_task_type": "language_modeling"},
]
BASELINES = {"copa": 50, "piqa": 25, "winograd": 50, "winogrande": 50, "lambada_openai": 0, "jeopardy": 0, "squad": 0}
COLOURS = ["red", "green", "deep blue", "yellow"]
THINGS = [
    "house",
    "naïve café",
    "river",
    "old door",
    "tower",
    "小さな舟",
    "bird",
    "road",
    "dress",
    "sky",
    "hat",
    "sign",
]


def rows_of(kind: str) -> list[dict]:
    """Twelve questions about the colours of things, with blanks at ends and characters of several bytes."""
    if kind == "multiple_choice":
        return [
            {
                "query": f"What colour is the {thing}? It is" + " " * (i % 2),
                "choices": COLOURS[: 2 + i % 3],
                "gold": i % 2,
            }
            for i, thing in enumerate(THINGS)
        ]
    if kind == "schema":
        return [
            {
                "context_options": [f"The {thing} and the wall, since the {one}" for one in (thing, "wall")],
                "continuation": f"was painted {COLOURS[i % 4]}.",
                "gold": i % 2,
            }
            for i, thing in enumerate(THINGS)
        ]
    return [
        {"context": f" Nobody knew it: the {thing} is{' ' * (i % 3)}", "continuation": COLOURS[i % 4]}
        for i, thing in enumerate(THINGS)
    ]


def write_bundle(folder: Path) -> Path:
    """The bundle as a folder."""
    data = folder / "eval_data" / "all"
    data.mkdir(parents=True)
    entries = [{**task, "dataset_uri": f"all/{task['label']}.jsonl"} for task in TASKS]
    (folder / "core.yaml").write_text(yaml.safe_dump({"icl_tasks": entries}))
    table = ["Eval Task,Task Category,Random baseline,Description"]
    table += [f'{label},some,{baseline},"one, two"' for label, baseline in BASELINES.items()]
    (folder / "eval_meta_data.csv").write_text("\n".join(table) + "\n")
    for task in TASKS[:-1]:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows_of(task["icl_task_type"])]
        (data / f"{task['label']}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def zipped(folder: Path) -> Path:
    """The folder as a zip that holds it under its own name, as nanochat's does."""
    return Path(shutil.make_archive(str(folder), "zip", folder.parent, folder.name))
