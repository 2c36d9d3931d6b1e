"""A run's timeline: cumulative tokens, one record a step, and changes that are told from noise."""

import json

import pytest
from run_folders import falling_records, write_stage

from hfgpt.errors import UserError
from hfgpt.report.changes import Change, changes_between_stages, error_of_difference
from hfgpt.report.timeline import LEAST_SHARE, open_timeline


def scores_line(step, **results):
    return json.dumps({"step": step, "tokens": 0, "results": results}) + "\n"


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    write_stage(folder / "pretrain", falling_records([0, 500, 1000], [2.0, 1.5, 1.0]))
    write_stage(folder / "sft", falling_records([40, 100], [0.9, 0.8]))
    (folder / "pretrain" / "evals.jsonl").write_text(
        scores_line(1, skill={"acc": 0.1, "stderr": 0.03}) + scores_line(3, skill={"acc": 0.8, "stderr": 0.04})
    )
    (folder / "sft" / "evals.jsonl").write_text(scores_line(2, skill={"acc": 0.7, "stderr": 0.04}))
    return folder


def test_a_later_stage_goes_on_at_the_tokens_of_those_before(run_folder):
    timeline = open_timeline(run_folder)
    assert [(stage.name, stage.start, stage.end) for stage in timeline.stages] == [
        ("pretrain", 0, 1000),
        ("sft", 1000, 1100),
    ]
    held_out = timeline.metric("val_bits_per_byte")
    assert [curve.tokens for curve in held_out] == [[0, 500, 1000], [1040, 1100]]
    assert held_out[1].values == [0.9, 0.8]
    skill = timeline.abilities()["skill acc"]
    assert [(curve.stage, curve.tokens, curve.values) for curve in skill] == [
        ("pretrain", [0, 1000], [0.1, 0.8]),
        ("sft", [1100], [0.7]),
    ]


def test_a_step_between_two_records_lies_in_proportion(run_folder):
    stage = open_timeline(run_folder).stages[0]
    stage.records[1:] = [{"step": 11, "tokens": 1000}]
    assert stage.tokens_at(6) == 500


def test_a_step_that_was_written_twice_counts_once_and_as_it_was_last(tmp_path):
    records = falling_records([10, 20, 30], [3.0, 2.0, 1.0])
    again = [dict(record, loss=7.0) for record in records[1:]]
    write_stage(tmp_path / "run" / "pretrain", [*records, *again], is_complete=False)
    with (tmp_path / "run" / "pretrain" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "tok')  # killed within a line
    (stage,) = open_timeline(tmp_path / "run").stages
    assert [record["step"] for record in stage.records] == [1, 2, 3]
    assert [record["loss"] for record in stage.records] == [3.0 * 2.7, 7.0, 7.0]
    assert stage.final is None and stage.tokens == 30


def test_a_stage_of_few_tokens_keeps_its_share_of_a_picture(tmp_path):
    write_stage(tmp_path / "run" / "pretrain", falling_records([0, 10**9], [2.0, 1.0]))
    write_stage(tmp_path / "run" / "sft", falling_records([0, 10**6], [2.0, 1.0]))
    place = open_timeline(tmp_path / "run").positions()
    total = 10**9 / (10**9 + 10**6) + LEAST_SHARE
    assert place(0) == 0 and place(10**9 + 10**6) == pytest.approx(1)
    assert place(10**9) == pytest.approx(1 - LEAST_SHARE / total)
    assert place(5 * 10**8) == pytest.approx(place(10**9) / 2)


def test_only_a_change_beyond_its_noise_gets_a_name(run_folder):
    learned, after = changes_between_stages(open_timeline(run_folder))
    assert (learned.values, str(learned)) == ((0.1, 0.8), "+70.0 ± 5.0 learned")
    # 0.8 to 0.7 with errors of 0.04 each: 10 points ± 5.7, which is noise
    assert (after.values, str(after)) == ((0.8, 0.7), "-10.0 ± 5.7")


@pytest.mark.parametrize(
    ("values", "errors", "verdict"),
    [
        ((0.5, 0.3), (0.03, 0.03), "forgotten"),
        ((0.5, 0.42), (0.03, 0.03), ""),  # 1.9 errors
        ((1.0, 0.9), (0.0, 0.04), ""),  # the 0 of a full score is no certainty: 1.8 errors
        ((0.0, 1.0), (0.0, 0.0), "learned"),
        ((0.0, 0.0), (0.0, 0.0), ""),
        ((0.0, 1.0), (None, 0.1), ""),
    ],
)
def test_a_change_is_called_one_beyond_two_standard_errors(values, errors, verdict):
    assert Change("skill", "sft", values, error_of_difference(errors)).verdict == verdict


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        open_timeline(tmp_path)
