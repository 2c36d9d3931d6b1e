"""The table of abilities: every stage's last scores, the best marked, what was not measured left open."""

import json

from hfgpt.report.abilities import abilities_of, abilities_table, write_abilities


def write_scores(folder, *entries):
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": step, "tokens": 0, "results": results}) for step, results in entries]
    (folder / "evals.jsonl").write_text("\n".join(lines) + "\n")


def test_stages_stand_side_by_side_with_their_last_scores(tmp_path):
    facts = {"acc": 0.9, "stderr": 0.01}
    write_scores(tmp_path / "tiny" / "pretrain", (0, {"tinyworld_facts": {"acc": 0.1, "stderr": 0.02}}))
    with (tmp_path / "tiny" / "pretrain" / "evals.jsonl").open("a") as file:
        file.write(json.dumps({"step": 9, "tokens": 9, "results": {"tinyworld_facts": facts}}) + "\n")
    chat = {"form": 0.75, "form_stderr": 0.05, "preferred": 0.5}
    write_scores(
        tmp_path / "tiny" / "sft",
        (5, {"tinyworld_facts": {"acc": 0.8, "stderr": 0.01}, "tinyworld_chat": chat, "other": {"acc": 0.3}}),
        (0, {"pass_at_k": {"pass@1": 0.05, "pass@1_stderr": 0.01}, "tinyworld_facts": {"acc": 0.7}}),
        (5, {"pass_at_k": {"pass@1": 0.25, "pass@1_stderr": 0.02}}),
    )
    stages, abilities = abilities_of(tmp_path / "tiny")
    assert stages == ["pretrain", "sft"]
    by_name = {ability.name: (ability.values, ability.errors) for ability in abilities}
    assert by_name["knows a fact (sentence cut off, 1 of 10)"] == ([0.9, 0.8], [0.01, 0.01])
    assert by_name["answers in the form of a chat, and ends"] == ([None, 0.75], [None, 0.05])
    assert by_name["pass@1 on sums, sampled"][0] == [0.05, 0.25]
    assert by_name["other acc"][0] == [None, 0.3]
    table = abilities_table(tmp_path / "tiny")
    line = next(line for line in table.splitlines() if "knows a fact" in line)
    assert "90.0% ± 1.0%*" in line and "80.0% ± 1.0%" in line and "80.0% ± 1.0%*" not in line
    assert "| -" in next(line for line in table.splitlines() if "form of a chat" in line).replace("  ", "")
    said = [("Who?", 0, "I | do\nnot know"), ("Who?", 9, "A model.")]
    lines = [json.dumps({"step": step, "prompt": prompt, "completion": text}) for prompt, step, text in said]
    (tmp_path / "tiny" / "sft" / "samples.jsonl").write_text("\n".join(lines))
    written = write_abilities(tmp_path / "tiny")
    assert table in written.read_text() and written.parent.name == "report"
    assert written.read_text().endswith("| Who? | I \\| do not know | A model. |\n")
