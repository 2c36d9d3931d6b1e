"""The notebook's cells, run in order in a process of their own on the tiny run, show what they promise."""

import json

import pytest
from commands import REPOSITORY, succeed

NOTEBOOK = REPOSITORY / "docs" / "explore.ipynb"
RUN_CELLS = """
import json, os, sys
cells = json.load(open(sys.argv[1], encoding="utf-8"))["cells"]
os.chdir(sys.argv[2])
seen = {}
for cell in cells:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), seen)
print(json.dumps({
    "stages": [stage.name for stage in seen["timeline"].stages],
    "abilities": len(seen["abilities"]),
    "likeliest": seen["words"][0],
    "probability": seen["top"].values[0].item(),
    "rows_of_attention": seen["attention"].sum(-1).flatten().tolist(),
    "above_the_diagonal": seen["attention"].triu(1).abs().max().item(),
    "figures": seen["plt"].get_fignums(),
}))
"""


@pytest.mark.slow
def test_its_cells_run_in_order_and_show_the_run(tiny_run, tmp_path):
    folder, _ = tiny_run
    (tmp_path / "docs").mkdir()
    (tmp_path / "runs").symlink_to(folder.parent)  # the notebook looks for ../runs/tiny
    done = succeed("python", "-c", RUN_CELLS, NOTEBOOK, tmp_path / "docs", MPLBACKEND="Agg")
    shown = json.loads(done.stdout.splitlines()[-1])
    assert shown["stages"] == ["pretrain", "midtrain", "sft", "dpo", "grpo"]
    assert "| knows a fact" in done.stdout and "learned" in done.stdout
    assert shown["abilities"] >= 7 and len(shown["figures"]) == 4
    assert shown["likeliest"].startswith("' ") and shown["probability"] > 0.2  # a town, of a vocabulary of thousands
    assert shown["rows_of_attention"] == pytest.approx([1.0] * len(shown["rows_of_attention"]), abs=1e-5)
    assert shown["above_the_diagonal"] == 0.0


def test_it_is_kept_without_outputs():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
