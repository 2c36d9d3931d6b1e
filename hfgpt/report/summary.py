"""What a finished stage tells its user on the terminal, read back from the files that it left."""

import json
from pathlib import Path

from hfgpt.report.plots import LOSS_PLOT, plot_loss
from hfgpt.training.plan import Plan
from hfgpt.training.record import METRICS_FILE, RunRecord, read_records
from hfgpt.workspace import FINAL_METRICS

LAST_VALUES = ("loss", "val_loss", "val_bits_per_byte")


def finish_stage(folder: Path, plan: Plan, record: RunRecord, bytes_per_token: float) -> None:
    """Draw the loss and write final_metrics.json, which makes the stage complete."""
    plot_loss(folder, bytes_per_token)
    records = read_records(folder / METRICS_FILE)
    last = {name: next((r[name] for r in reversed(records) if name in r), None) for name in LAST_VALUES}
    final = {
        "steps": plan.max_steps,
        "tokens": plan.total_tokens,
        "flops": plan.total_tokens * plan.flops_per_token,
        "seconds": round(record.elapsed(), 3),
        "tokens_per_second": plan.total_tokens / record.elapsed(),
        "parameters": plan.parameters.total,
        **last,
    }
    (folder / FINAL_METRICS).write_text(json.dumps(final, indent=1), encoding="utf-8")


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
        lines[0] += f", held-out loss {final['val_loss']:.4f}, bits per byte {final['val_bits_per_byte']:.4f}"
    evals = read_records(folder / "evals.jsonl")
    if evals and evals[0]["step"] == 0:
        before, after = evals[0]["results"], evals[-1]["results"]
        lines.append(f"{'score':<28} {'before':>8} {'after':>8} {'stderr':>8}")
        for task, scores in after.items():
            first = before.get(task, {}).get("acc")
            if "acc" in scores and first is not None:
                lines.append(f"{task:<28} {first:>8.1%} {scores['acc']:>8.1%} {scores.get('stderr', 0):>8.1%}")
    samples = read_records(folder / "samples.jsonl")
    last = [sample for sample in samples if sample["step"] == samples[-1]["step"]] if samples else []
    lines += [f"sample: {sample['prompt']} →{_one_line(sample['completion'])}" for sample in last]
    lines += [f"model in {folder}", f"plot  in {folder / LOSS_PLOT}"]
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return " " + " ".join(text.split())
