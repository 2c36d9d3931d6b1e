"""What a stage says at its end is read back from its files."""

import json

from hfgpt.report.summary import finish_stage, stage_summary
from hfgpt.training.record import RunRecord


def test_what_guards_did_is_counted_and_said(tmp_path):
    record = RunRecord(tmp_path, tokens_per_step=512, flops_per_token=6.0, rows_per_epoch=None, rows_per_step=8)
    record.start(0)
    fault = {"what": "loss", "value": 9.0, "limit": 3.0}
    for step in range(1, 5):
        policy = "rollback" if step == 3 else "skip"
        faults = {} if step == 1 else {"faults": [{"step": step, "policy": policy, **fault}]}
        record.append(step, {"loss": 2.0, "grad_norm": 0.5, "learning_rate": 0.1, **faults})
    finish_stage(tmp_path, record, steps=4, parameters=1000)
    final = json.loads((tmp_path / "final_metrics.json").read_text())
    assert (final["updates_left_out"], final["rollbacks"]) == (2, 1)
    assert "guards: updates left out 2, rollbacks 1" in stage_summary(tmp_path)


def test_a_run_without_faults_says_nothing_of_guards(tmp_path):
    record = RunRecord(tmp_path, tokens_per_step=512, flops_per_token=6.0, rows_per_epoch=None, rows_per_step=8)
    record.start(0)
    record.append(1, {"loss": 2.0, "grad_norm": 0.5, "learning_rate": 0.1})
    finish_stage(tmp_path, record, steps=1, parameters=1000)
    assert "updates_left_out" not in json.loads((tmp_path / "final_metrics.json").read_text())
    assert "guards" not in stage_summary(tmp_path)
