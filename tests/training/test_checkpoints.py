"""A checkpoint is complete or it is not used: what is missing, cut short or altered is seen and named."""

import hashlib
import json
from pathlib import Path

import pytest

from hfgpt.training.checkpoints import (
    STAGING,
    altered_files,
    checkpoint_folders,
    complete_checkpoints,
    drop_training_state,
    mark_complete,
    missing_pieces,
    obstacle,
    publish,
    read_mark,
    rotate_checkpoints,
)

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights" * 100,
    "optimizer.pt": b"state" * 300,
    "rng_state_0.pth": b"dice",
    "scheduler.pt": b"rates",
    "trainer_state.json": b"{}",
    "pytorch_model_fsdp_0/__0_0.distcp": b"weights in shards",
}


def checkpoint(run: Path, step: int, mark: bool = True, files: dict[str, bytes] = FILES) -> Path:
    folder = run / f"checkpoint-{step}"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if mark:
        mark_complete(folder)
    return folder


def names(folders: list[Path]) -> list[str]:
    return [folder.name for folder in folders]


def flip(path: Path, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1 << bit
    path.write_bytes(content)


def test_the_mark_holds_size_and_sha256_of_every_file(tmp_path):
    folder = checkpoint(tmp_path, 5)
    mark = read_mark(folder)
    assert mark is not None and mark.kind == "full"
    assert {name: (file.bytes, file.sha256) for name, file in mark.files.items()} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in FILES.items()
    }
    assert mark.num_bytes == sum(map(len, FILES.values()))
    assert obstacle(folder) is None


def test_the_newest_complete_one_is_found_by_number_not_by_name(tmp_path):
    for step in (9, 10, 100):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 200, mark=False)
    (tmp_path / "checkpoint-notes").mkdir()
    complete, incomplete = complete_checkpoints(tmp_path)
    assert names(complete) == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert incomplete == {tmp_path / "checkpoint-200": ["COMPLETE"]}


@pytest.mark.parametrize("harm", ["removed", "cut", "longer", "a folder"])
def test_a_missing_or_cut_file_is_named(tmp_path, harm):
    folder = checkpoint(tmp_path, 5)
    file = folder / "optimizer.pt"
    content = file.read_bytes()
    file.unlink()
    if harm == "a folder":
        file.mkdir()
    elif harm != "removed":
        file.write_bytes(content[:100] if harm == "cut" else content + b"0")
    assert missing_pieces(folder) == ["optimizer.pt"]
    assert obstacle(folder) == "is incomplete (optimizer.pt)"


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_in_any_file_is_seen(tmp_path, name):
    folder = checkpoint(tmp_path, 5)
    flip(folder / name)
    assert missing_pieces(folder) == []  # its size is what it was
    assert altered_files(folder) == [name]
    assert obstacle(folder) == f"is damaged ({name})"


def test_any_flipped_bit_of_the_mark_makes_the_checkpoint_unusable(tmp_path):
    folder = checkpoint(tmp_path, 5, files={"model.safetensors": b"weights", "optimizer.pt": b"state"})
    path = folder / "COMPLETE"
    whole = path.read_bytes()
    harmless = 0
    for place in range(len(whole)):
        harmed = bytearray(whole)
        harmed[place] ^= 1 << (place % 7)
        path.write_bytes(harmed)
        if obstacle(folder) is None:  # a space for another that JSON reads over, or a hash's digit in capitals
            assert whole[place : place + 1].isspace()
            harmless += 1
    assert harmless < len(whole) / 4


@pytest.mark.parametrize("mark", ["", "[]", "{}", '{"files": []}', '{"kind": "full", "files": {"a": 5}}', "\x00"])
def test_a_mark_that_says_nothing_is_no_mark(tmp_path, mark):
    folder = checkpoint(tmp_path, 5)
    (folder / "COMPLETE").write_text(mark)
    assert obstacle(folder) == "is incomplete (COMPLETE)"


def test_only_complete_checkpoints_count_towards_the_limit(tmp_path):
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
    broken = checkpoint(tmp_path, 4, mark=False)
    checkpoint(tmp_path, 5)
    rotate_checkpoints(tmp_path / "checkpoint-5", 2)
    assert names(complete_checkpoints(tmp_path)[0]) == ["checkpoint-3", "checkpoint-5"]
    assert broken.exists()


def test_what_the_run_has_passed_over_takes_no_place_of_a_good_one_and_stays(tmp_path):
    for step in (80, 100, 150):
        checkpoint(tmp_path, step)
    flip(tmp_path / "checkpoint-150" / "optimizer.pt")  # so the run went on from 100
    rotate_checkpoints(checkpoint(tmp_path, 120), 1, 1)
    assert names(checkpoint_folders(tmp_path)) == ["checkpoint-100", "checkpoint-120", "checkpoint-150"]
    assert obstacle(tmp_path / "checkpoint-120") is None
    assert obstacle(tmp_path / "checkpoint-100") == "holds the weights alone"
    assert obstacle(tmp_path / "checkpoint-150") == "is damaged (optimizer.pt)"


@pytest.mark.parametrize(
    ("total", "weights", "full", "alone"),
    [
        (2, 0, [40, 50], []),
        (1, 2, [50], [30, 40]),
        (2, 99, [40, 50], [10, 20, 30]),
        (2, None, [40, 50], [10, 20, 30]),
        (None, 1, [10, 20, 30, 40, 50], []),
        (0, 0, [10, 20, 30, 40, 50], []),
        (9, 1, [10, 20, 30, 40, 50], []),
    ],
)
def test_two_limits_say_how_many_keep_everything_and_how_many_their_model(tmp_path, total, weights, full, alone):
    for step in (10, 20, 30, 40, 50):
        rotate_checkpoints(checkpoint(tmp_path, step), total, weights)
    complete, incomplete = complete_checkpoints(tmp_path)
    assert names(complete) == [f"checkpoint-{step}" for step in full]
    assert not incomplete
    kept = [folder for folder in checkpoint_folders(tmp_path) if folder not in complete]
    assert names(kept) == [f"checkpoint-{step}" for step in alone]
    for folder in kept:
        left = {path.name for path in folder.iterdir()}
        assert left == {"COMPLETE", "config.json", "model.safetensors", "trainer_state.json"}
        assert obstacle(folder) == "holds the weights alone"
        assert altered_files(folder) == []


def test_weights_that_lie_in_shards_only_are_kept(tmp_path):
    files = {name: content for name, content in FILES.items() if name != "model.safetensors"}
    folder = checkpoint(tmp_path, 5, files=files)
    drop_training_state(folder)
    assert (folder / "pytorch_model_fsdp_0" / "__0_0.distcp").is_file() and not (folder / "optimizer.pt").exists()
    assert missing_pieces(folder) == []


def test_a_drop_that_was_interrupted_is_ended_by_the_next_rotation(tmp_path):
    folder = checkpoint(tmp_path, 1)
    mark = json.loads((folder / "COMPLETE").read_text())
    state = ("optimizer.pt", "rng_state_0.pth", "scheduler.pt", "pytorch_model_fsdp_0/__0_0.distcp")
    mark["files"] = {name: file for name, file in mark["files"].items() if name not in state}
    (folder / "COMPLETE").write_text(json.dumps(mark | {"kind": "weights"}))
    assert obstacle(folder) == "holds the weights alone"  # though its optimizer state is still there
    rotate_checkpoints(checkpoint(tmp_path, 2), 1, 1)
    assert not (folder / "optimizer.pt").exists() and (folder / "model.safetensors").is_file()


def test_publishing_marks_and_takes_the_place_of_what_was_there(tmp_path):
    old = checkpoint(tmp_path, 7, mark=False)
    (old / "left.txt").write_text("from an earlier try")
    staged = checkpoint(tmp_path / STAGING, 7, mark=False)
    publish(staged, tmp_path / "checkpoint-7")
    assert obstacle(tmp_path / "checkpoint-7") is None
    assert not (tmp_path / "checkpoint-7" / "left.txt").exists()
    assert not staged.exists() and not list((tmp_path / STAGING).iterdir())
