"""The report card and the model cards: right figures, also of a run that has only SFT or is not complete; and nothing
that a model says becomes markup."""

import json
from html.parser import HTMLParser

import pytest
import yaml
from commands import sentence_of_failure, succeed
from huggingface_hub import ModelCard
from run_folders import falling_records, write_stage

from hfgpt.report.facts import LENGTH_ROWS
from hfgpt.report.model_card import MADE_HERE, write_model_cards
from hfgpt.report.report_card import write_report
from hfgpt.report.timeline import open_timeline

EVIL = "<script>alert(1)</script> | <img src=x onerror=alert(2)> [a](javascript:alert(3)) `x` ![b](http://e.org/p.png)"


class Page(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data


def only_sft(tmp_path, is_complete=True):
    recipe = {"sft": {"max_steps": 2}, "dpo": {"max_steps": 9}, "model": {"depth": 2}}
    scores = {"skill": {"acc": 0.75, "stderr": 0.05}}
    records = falling_records([3600, 7200], [1.5, 1.0], tokens_per_second=1.0)
    stage = write_stage(tmp_path / "mine" / "sft", records, recipe, scores=scores, is_complete=is_complete)
    samples = [{"step": step, "prompt": "Who?", "completion": said} for step, said in ((0, EVIL), (2, "A model."))]
    (stage / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return tmp_path / "mine"


def test_a_run_of_sft_alone_has_its_figures_and_one_file_with_everything(tmp_path):
    page = write_report(only_sft(tmp_path), price=3.0, num_gpus=2)
    html, markdown = page.read_text(), page.with_name("report.md").read_text()
    # two hours of two accelerators at 3 dollars; 10 FLOPs a token
    expected = ["max_steps 2", "2", "-", "-", "2", "-", "7.2k", "7.2e+04", "2 h", "1", "-", "$12.00"]
    assert figures_of(markdown, "sft") == dict(zip(LENGTH_ROWS, expected, strict=True))
    assert "| skill acc" in markdown and "75.0% ± 5.0%" in markdown
    assert "max_steps: 2" in markdown and "max_steps: 9" not in markdown  # dpo never ran
    images = [attributes["src"] for tag, attributes in Page(html).tags if tag == "img"]
    assert len(images) == 2 and all(source.startswith("data:image/png;base64,") for source in images)
    assert {name for name in page.parent.iterdir() if name.suffix == ".png"} == {
        page.with_name("timeline.png"),
        page.with_name("abilities.png"),
    }


def figures_of(markdown, stage):
    """What the first table says of a stage, by the names of its rows."""
    table = markdown.split("what happened")[1].strip().split("\n\n")[0]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return {row[0]: row[header.index(stage)] for row in rows}


def test_a_plan_and_an_environment_that_the_stage_left_are_shown(tmp_path):
    run = only_sft(tmp_path)
    plan = {"by": "num_train_epochs", "steps": 3, "tokens": 10800, "flops": 108000}
    (run / "sft" / "plan.json").write_text(json.dumps(plan))
    (run / "sft" / "environment.json").write_text(json.dumps({"torch": "1.2.3", "processes": "4"}))
    (run / "sft" / "recipe.yaml").write_text("sft: {beta: 1}\n")
    markdown = write_report(run).with_name("report.md").read_text()
    shown = figures_of(markdown, "sft")
    assert [shown[name] for name in LENGTH_ROWS[:4]] == ["num_train_epochs (default)", "3", "10.8k", "1.08e+05"]
    environment = markdown.split("## Environment")[1]
    assert "1.2.3" in environment and "this report" not in environment
    (run / "sft" / "environment.json").unlink()
    assert "this report" in write_report(run).with_name("report.md").read_text().split("## Environment")[1]


def test_what_a_model_says_is_text_and_nothing_else(tmp_path):
    run = only_sft(tmp_path)
    html = Page(write_report(run).read_text())
    assert EVIL in html.words
    assert not [tag for tag, _ in html.tags if tag in ("script", "a", "iframe", "link", "object")]
    assert not [name for _, attributes in html.tags for name in attributes if name.startswith("on")]
    write_model_cards(open_timeline(run))
    for path in (run / "report" / "report.md", run / "sft" / "README.md"):
        markdown = path.read_text()
        assert "<script" not in markdown and "<img" not in markdown, path
        assert "[a](" not in markdown and "![b](" not in markdown and "http://e.org" not in markdown, path


def test_a_stage_that_is_not_complete_is_named_and_gets_no_model_card(tmp_path):
    run = only_sft(tmp_path, is_complete=False)
    markdown = write_report(run).with_name("report.md").read_text()
    assert "Not complete: sft." in markdown and "2 so far" in markdown
    assert write_model_cards(open_timeline(run)) == []


def test_overlap_stands_beside_the_score(tmp_path):
    run = only_sft(tmp_path)
    (run / "report").mkdir()
    found = {"n": 13, "rule": "13 words in a row", "tasks": {"skill": {"questions": 80, "overlapping": 4}}}
    (run / "report" / "leakage.json").write_text(json.dumps(found))
    markdown = write_report(run).with_name("report.md").read_text()
    row = next(line for line in markdown.splitlines() if line.startswith("| skill |"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["skill", "80", "4", "5.0%", "acc 75.0%"]


def test_a_model_card_carries_its_scores_as_the_hub_reads_them(tmp_path):
    run = only_sft(tmp_path)
    (path,) = write_model_cards(open_timeline(run))
    (result,) = ModelCard.load(path).data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("skill", "acc", 0.75)
    header = yaml.safe_load(path.read_text().split("---")[1])
    assert header["library_name"] == "transformers" and header["model-index"][0]["name"] == "mine-sft"


@pytest.mark.parametrize(("before", "is_kept"), [("# Mine\n", True), (f"{MADE_HERE}\nold", False)])
def test_a_card_that_a_person_wrote_is_kept(tmp_path, before, is_kept):
    run = only_sft(tmp_path)
    (run / "sft" / "README.md").write_text(before)
    write_model_cards(open_timeline(run))
    assert ((run / "sft" / "README.md").read_text() == before) == is_kept


def test_the_command_writes_both_and_says_where(tmp_path):
    run = only_sft(tmp_path)
    done = succeed("hfgpt", "report", run)
    assert str(run / "report" / "report.html") in done.stdout and (run / "sft" / "README.md").is_file()
    assert "holds no run" in sentence_of_failure("hfgpt", "report", tmp_path)
