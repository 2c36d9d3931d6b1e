"""Runs side by side: what differs, how soon one reaches the other, which abilities stand beside each other."""

import pytest
from run_folders import architecture, falling_records, write_stage

from hfgpt.errors import UserError
from hfgpt.report.comparison import compared_loss, comparison_report, differences, how_soon, open_runs, standing_table
from hfgpt.report.comparison_plot import plot_comparison

TOKENS = [100, 200, 300, 400]
FACTS = {"tinyworld_facts": {"acc": 0.5, "stderr": 0.05}}


@pytest.fixture
def two_runs(tmp_path):
    slow = falling_records(TOKENS, [3.0, 2.0, 1.5, 1.25])
    fast = falling_records(TOKENS, [2.0, 1.5, 1.0, 0.9], tokens_per_second=50.0)
    recipe = {"model": {"depth": 2}, "data": {"seed": 1}, "pretrain": {"max_steps": 4, "output_dir": "a"}}
    other = {
        "model": {"depth": 2},
        "tokenizer": {"vocab_size": 512},
        "data": {"seed": 1},
        "pretrain": {"max_steps": 4, "output_dir": "b", "learning_rate": 0.01},
    }
    write_stage(tmp_path / "slow" / "pretrain", slow, recipe, scores=FACTS)
    shape = architecture(hidden_size=64)
    better = {"tinyworld_facts": {"acc": 0.75, "stderr": 0.05}}
    write_stage(tmp_path / "fast" / "pretrain", fast, other, shape, scores=better, is_complete=False)
    return [tmp_path / "slow", tmp_path / "fast"]


def test_where_they_stand_and_how_soon_one_reaches_the_other(two_runs):
    slow, fast = runs = open_runs(two_runs)
    assert compared_loss(runs) == "val_bits_per_byte"
    table = standing_table(runs).as_markdown().splitlines()
    assert "1.2500 " in table[2] and "complete" in table[2] and "4 s" in table[2]
    assert "0.9000*" in table[3] and "at step 4" in table[3] and "4.00e+03" in table[3]
    # fast passes 1.25 half way between 200 and 300 tokens, which took it 5 seconds where slow took 4 in all
    reached = "0.62 of its tokens, 0.62 of its FLOPs, 1.25 of its time"
    assert how_soon(runs) == [f"fast reached slow's last bits per byte (1.2500) at {reached}."]
    assert how_soon([fast, slow]) == ["slow never reached fast's last bits per byte (0.9000)."]


def test_a_run_that_went_on_since_its_last_evaluation_is_compared_as_of_then(tmp_path):
    records = falling_records(TOKENS, [3.0, 2.0, 1.5, 1.25])
    later = {name: 1.5 * value for name, value in records[-1].items() if name in ("tokens", "flops", "seconds")}
    for name in ("a", "b"):
        unfinished = [*records, {"step": 6, "loss": 1.0} | later]
        write_stage(tmp_path / name / "pretrain", unfinished, {"model": {"depth": 2}}, is_complete=False)
    (line,) = how_soon(open_runs([tmp_path / "a", tmp_path / "b"]))
    assert line.endswith("at 1.00 of its tokens, 1.00 of its FLOPs, 1.00 of its time.")


def test_the_report_names_what_differs_in_the_order_of_the_recipe(two_runs):
    report = comparison_report(open_runs(two_runs), "picture.png")
    stated, derived = report.split("## Where the recipes differ")[1].split("## Derived values that differ")
    keys = [line.split("|")[1].strip() for line in stated.splitlines() if line.startswith("| ")]
    assert keys == ["key", "tokenizer.vocab_size", "pretrain.learning_rate"]
    assert "hidden_size" in derived and "num_hidden_layers" not in derived and "seed" not in derived
    assert "![loss and abilities](picture.png)" in report
    row = next(line for line in report.splitlines() if "knows a fact" in line)
    assert "50.0% ± 5.0% " in row and "75.0% ± 5.0%*" in row


def test_a_key_of_one_run_alone_and_long_values_can_still_be_told_apart():
    one = {"a": 1, "long": ["x" * 60, "y"], "rate": 0.1 + 0.2}
    other = {"a": 1, "long": ["x" * 60, "z"], "rate": 0.3, "only": True}
    rows = differences([one, other])
    assert [row[0] for row in rows] == ["long", "only"]
    assert rows[0][1] != rows[0][2] and all(len(text) <= 50 for text in rows[0][1:])
    assert rows[1][1:] == ["-", "True"]


def test_a_stage_that_one_run_lacks_is_not_compared(two_runs):
    write_stage(two_runs[0] / "sft", falling_records([10], [1.0]), {"sft": {"max_steps": 1}}, scores=FACTS)
    report = comparison_report(open_runs(two_runs))
    assert "sft" not in report and "## Abilities after pretrain" in report
    with pytest.raises(UserError, match="fast has no stage sft; it has pretrain"):
        open_runs(two_runs, "sft")


def test_scores_of_single_stages_stand_beside_each_other_whatever_their_names(two_runs, tmp_path):
    write_stage(tmp_path / "slow" / "midtrain", falling_records(TOKENS, [1.2, 1.1, 1.0, 0.9]), scores=FACTS)
    write_stage(tmp_path / "elsewhere", falling_records(TOKENS, [1.2, 1.1, 1.0, 0.8]), scores=FACTS)
    stages = [tmp_path / "slow" / "pretrain", tmp_path / "slow" / "midtrain", tmp_path / "elsewhere"]
    report = comparison_report(open_runs(stages))
    assert "## Abilities after the last step" in report and report.count("50.0% ± 5.0%*") == 3
    mixed = comparison_report(open_runs([tmp_path / "fast", tmp_path / "elsewhere"]))
    assert "## Abilities after pretrain" in mixed and "50.0% ± 5.0% " in mixed


def test_folders_of_stages_can_be_compared_and_losses_of_different_vocabularies_cannot(tmp_path):
    for name, vocabulary in (("one", 512), ("two", 700)):
        records = [
            {k: v for k, v in r.items() if k != "val_bits_per_byte"} for r in falling_records(TOKENS, [4, 3, 2, 1])
        ]
        write_stage(tmp_path / name / "sft", records, shape=architecture(hidden_size=32) | {"vocab_size": vocabulary})
    runs = open_runs([tmp_path / "one" / "sft", tmp_path / "two" / "sft"])
    assert [run.name for run in runs] == ["one", "two"] and compared_loss(runs) == "val_loss"
    report = comparison_report(runs)
    assert "Their vocabularies differ" in report and "reached" not in report


@pytest.mark.parametrize("count", [2, 9])
def test_the_picture_is_drawn_with_and_without_abilities(two_runs, tmp_path, count):
    for number in range(2, count):
        copy = write_stage(
            tmp_path / f"run{number}" / "pretrain", falling_records(TOKENS, [4, 3, 2.5, 2 + number / 10])
        )
        two_runs.append(copy.parent)
    path = plot_comparison(open_runs(two_runs), tmp_path / "picture.png")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 30_000


def test_what_cannot_be_compared_is_said_in_one_sentence(two_runs, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no run"):
        open_runs([two_runs[0], tmp_path / "empty"])
    with pytest.raises(UserError, match="named twice"):
        open_runs([two_runs[0], two_runs[0]])
    with pytest.raises(UserError, match="two runs or more"):
        open_runs(two_runs[:1])
    write_stage(tmp_path / "begun" / "pretrain", [])
    with pytest.raises(UserError, match="has no record yet"):
        open_runs([two_runs[0], tmp_path / "begun"])
