"""What a finished stage tells its user on the terminal, read back from the files that it left."""

import json
from collections import Counter
from pathlib import Path

from hfgpt.evals.scores import Scores, read_scores
from hfgpt.report.plots import LOSS_PLOT, plot_loss
from hfgpt.training.record import METRICS_FILE, RunRecord, read_records
from hfgpt.whole_files import write_whole
from hfgpt.workspace import FINAL_METRICS

FAULTS = {"skip": "updates_left_out", "rollback": "rollbacks"}  # what guards did, in final_metrics.json
LAST_VALUES = ("loss", "val_loss", "val_bits_per_byte")


def finish_stage(
    folder: Path, record: RunRecord, *, steps: int, parameters: int, bytes_per_token: float | None = None
) -> None:
    """Draw the loss and write final_metrics.json, which makes the stage complete."""
    plot_loss(folder, bytes_per_token)
    records = read_records(folder / METRICS_FILE)
    tokens = records[-1]["tokens"] if records else 0
    faults = Counter(fault["policy"] for record in records for fault in record.get("faults", []))
    last = {name: next((r[name] for r in reversed(records) if name in r), None) for name in LAST_VALUES}
    final = {
        "steps": steps,
        "tokens": tokens,
        "flops": tokens * record.flops_per_token,
        "seconds": round(record.elapsed(), 3),
        "tokens_per_second": tokens / record.elapsed(),
        "parameters": parameters,
        **last,
        **{name: faults[policy] for policy, name in FAULTS.items() if faults[policy]},
    }
    write_whole(folder / FINAL_METRICS, json.dumps(final, indent=1))


def stage_summary(folder: Path) -> str:
    """Losses, eval scores before and after, last samples, and where the model and the plot lie."""
    final = json.loads((folder / FINAL_METRICS).read_text(encoding="utf-8"))
    lines = [
        f"trained on {final['tokens']:,} tokens in {final['seconds']:.0f} s "
        f"({final['tokens_per_second']:,.0f} tokens/s)"
    ]
    if final["loss"] is not None:
        lines[0] += f": loss {final['loss']:.4f}"
    if final["val_loss"] is not None:
        lines[0] += f", held-out loss {final['val_loss']:.4f}"
    if final["val_bits_per_byte"] is not None:
        lines[0] += f", bits per byte {final['val_bits_per_byte']:.4f}"
    if done := [f"{name.replace('_', ' ')} {final[name]}" for name in FAULTS.values() if name in final]:
        lines.append(f"guards: {', '.join(done)} (faults in {folder / METRICS_FILE})")
    scores = read_scores(folder)
    if 0 in scores and len(scores) > 1:
        lines += [f"{'score':<44} {'before':>8} {'after':>8}", *_before_and_after(scores[0], scores[max(scores)])]
    for prompt, before, after in samples_before_and_after(folder):
        was = "" if before is None else f" (before:{_one_line(before)})"
        lines.append(f"sample: {prompt} →{_one_line(after)}{was}")
    lines += [f"model in {folder}", f"plot  in {folder / LOSS_PLOT}"]
    return "\n".join(lines)


def samples_before_and_after(folder: Path) -> list[tuple[str, str | None, str]]:
    """(prompt, completion before the first step, completion after the last) of the stage's samples; the one before is
    None where none was drawn."""
    samples = read_records(folder / "samples.jsonl")
    if not samples:
        return []
    last = samples[-1]["step"]
    first = {sample["prompt"]: sample["completion"] for sample in samples if sample["step"] == 0 < last}
    return [(s["prompt"], first.get(s["prompt"]), s["completion"]) for s in samples if s["step"] == last]


def _before_and_after(before: Scores, after: Scores) -> list[str]:
    """One line a metric: before, after and the standard error of what is after."""
    lines = []
    for task, scores in after.items():
        for metric, value in scores.items():
            if metric.endswith("stderr") or metric not in before.get(task, {}):
                continue
            error = scores.get(f"{metric}_stderr", scores.get("stderr") if metric == next(iter(scores)) else None)
            noise = f" ± {error:.1%}" if error is not None else ""
            lines.append(f"{task + ' ' + metric:<44} {before[task][metric]:>8.1%} {value:>8.1%}{noise}")
    return lines


def _one_line(text: str) -> str:
    return " " + " ".join(text.split())
