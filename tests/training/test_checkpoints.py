"""A checkpoint is complete or it is not used: pieces that are missing or cut short are seen."""

from pathlib import Path

import pytest

from hfgpt.training.checkpoints import complete_checkpoints, mark_complete, missing_pieces, remove_old_checkpoints


def checkpoint(run: Path, step: int, mark: bool = True) -> Path:
    folder = run / f"checkpoint-{step}"
    (folder / "inner").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    (folder / "inner" / "optimizer.pt").write_bytes(b"state")
    if mark:
        mark_complete(folder)
    return folder


def test_the_newest_complete_one_is_found_by_number_not_by_name(tmp_path):
    for step in (9, 10, 100):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 200, mark=False)
    complete, incomplete = complete_checkpoints(tmp_path)
    assert [folder.name for folder in complete] == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert incomplete == {tmp_path / "checkpoint-200": ["COMPLETE"]}


@pytest.mark.parametrize("harm", ["removed", "cut"])
def test_a_missing_or_cut_file_is_named(tmp_path, harm):
    folder = checkpoint(tmp_path, 5)
    assert missing_pieces(folder) == []
    file = folder / "inner" / "optimizer.pt"
    if harm == "removed":
        file.unlink()
    else:
        file.write_bytes(b"st")
    assert missing_pieces(folder) == ["inner/optimizer.pt"]


def test_only_complete_checkpoints_count_towards_the_limit(tmp_path):
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
    broken = checkpoint(tmp_path, 4, mark=False)
    remove_old_checkpoints(tmp_path, 2)
    assert [folder.name for folder in complete_checkpoints(tmp_path)[0]] == ["checkpoint-2", "checkpoint-3"]
    assert broken.exists()
