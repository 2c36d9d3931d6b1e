"""The report card of a run: `report/report.md` and `report/report.html`, from the files that its stages left."""

from pathlib import Path

from hfgpt.recipe import STAGES
from hfgpt.recipe_values import as_yaml
from hfgpt.report.abilities import abilities_of, ability_rows
from hfgpt.report.changes import RULE, changes_table
from hfgpt.report.document import Block, Code, Picture, Section, Text, Words, as_html, as_markdown
from hfgpt.report.facts import data_table, environment_table, leakage_table, length_table
from hfgpt.report.tables import Table, short_number
from hfgpt.report.timeline import StageHistory, Timeline, open_timeline
from hfgpt.report.timeline_plots import plot_abilities, plot_losses

REPORT_MD, REPORT_HTML = "report.md", "report.html"
LOSS_PICTURE, ABILITIES_PICTURE = "timeline.png", "abilities.png"
LONGEST_ANSWER = 400  # characters of a sample that are shown


def write_report(run_folder: Path, *, price: float | None = None, num_gpus: int = 1) -> Path:
    """Write the report card of the run in `run_folder`; returns the path of the HTML page.

    `price` is in dollars an hour of one accelerator, of which `num_gpus` were at work; without it no cost is shown.
    Raises UserError where there is no run.
    """
    timeline = open_timeline(run_folder)
    folder = run_folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    sections = _sections(timeline, folder, price, num_gpus)
    title = f"Report card of {timeline.name}"
    (folder / REPORT_MD).write_text(as_markdown(title, sections), encoding="utf-8")
    page = folder / REPORT_HTML
    page.write_text(as_html(title, sections), encoding="utf-8")
    return page


def _sections(timeline: Timeline, folder: Path, price: float | None, num_gpus: int) -> list[Section]:
    sections = [
        _what_happened(timeline, price, num_gpus),
        _losses(timeline, folder),
        *_abilities(timeline, folder),
        *_leakage(timeline),
        *_samples(timeline),
        *_data(timeline),
        _recipe(timeline),
        Section("Environment", [environment_table(timeline)]),
    ]
    return [section for section in sections if section.blocks]


def _what_happened(timeline: Timeline, price: float | None, num_gpus: int) -> Section:
    blocks: list[Block] = []
    unfinished = [stage.name for stage in timeline.stages if stage.final is None]
    if unfinished:
        blocks.append(
            Text(f"Not complete: {', '.join(unfinished)}. What is shown of it is what it has left until now.")
        )
    blocks.append(length_table(timeline, price, num_gpus))
    blocks.append(Text("Hours are of training alone, without evaluations, samples and saves."))
    return Section("The plan, and what happened", blocks)


def _losses(timeline: Timeline, folder: Path) -> Section:
    picture = plot_losses(timeline, folder / LOSS_PICTURE)
    if picture is None:
        return Section("Loss")
    words = (
        "Stages of few tokens are drawn wider than their share, to be seen at all. The losses of DPO and GRPO are no "
        "cross entropies and are left out."
    )
    return Section("Loss", [Picture(picture, f"losses of {timeline.name} over tokens"), Text(words)])


def _abilities(timeline: Timeline, folder: Path) -> list[Section]:
    picture = plot_abilities(timeline, folder / ABILITIES_PICTURE)
    if picture is None:
        return []
    stages, abilities = abilities_of(timeline.folder)
    last = Table("", ["ability", *stages], ability_rows(abilities))
    sections = [
        Section(
            "Abilities over training",
            [
                Picture(picture, f"abilities of {timeline.name} over tokens, with bands of one standard error"),
                Text("At the end of each stage, ± one standard error; * marks the best stage."),
                last,
            ],
        )
    ]
    changes = changes_table(timeline)
    if changes:
        sections.append(Section(changes.title, [changes, Text(RULE)]))
    return sections


def _leakage(timeline: Timeline) -> list[Section]:
    found = leakage_table(timeline)
    if found is None:
        return []
    table, rule = found
    return [Section("Leakage", [table, Text(f"A question overlaps the training data by {rule}.")])]


def _samples(timeline: Timeline) -> list[Section]:
    """The answers to each prompt, from the first checkpoint of the first stage to the last of the last."""
    said: dict[str, list[list[str]]] = {}
    for stage in timeline.stages:
        for sample in sorted(stage.samples, key=lambda sample: sample["step"]):
            where = [stage.name, f"{sample['step']:,}", short_number(stage.tokens_at(sample["step"]))]
            said.setdefault(sample["prompt"], []).append([*where, _shown(sample["completion"])])
    blocks: list[Block] = []
    for prompt, rows in said.items():
        blocks += [Text(f"“{_shown(prompt)}”"), Words(["stage", "step", "tokens", "completion"], rows)]
    return [Section("What it said", blocks)]


def _shown(text: str) -> str:
    """On one line, without control characters, and not too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= LONGEST_ANSWER else f"{line[:LONGEST_ANSWER]} …"


def _data(timeline: Timeline) -> list[Section]:
    table = data_table(timeline)
    return [Section("Data", [table])] if table else []


def _recipe(timeline: Timeline) -> Section:
    """Shared sections as the first stage ran them, each stage's own as that stage did, flags included."""
    merged: dict[str, object] = {}
    for stage in timeline.stages:
        merged |= {name: value for name, value in stage.recipe.items() if name not in merged or name == stage.name}
    for name in [name for name in merged if _is_another_stage(name, timeline.stages)]:
        del merged[name]
    if not merged:
        return Section("Recipe")
    return Section("Recipe as it was run", [Code(as_yaml(merged))])


def _is_another_stage(name: str, begun: list[StageHistory]) -> bool:
    return name in STAGES and name not in {stage.name for stage in begun}
