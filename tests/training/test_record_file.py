"""Records outlive a disk that is full for a while: none is lost, doubled or cut."""

import resource

from hfgpt.training.record import read_records
from hfgpt.training.record_file import RecordFile


def limit_file_size(num_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))


def test_what_a_full_disk_refuses_is_written_when_it_has_room(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    records = RecordFile(path)
    for step in range(3):
        records.append({"step": step})
    whole = path.read_bytes()
    limit_file_size(len(whole) + 5)  # room for half a record
    try:
        for step in range(3, 6):
            records.append({"step": step})
        assert path.read_bytes() == whole
    finally:
        limit_file_size(resource.RLIM_INFINITY)
    records.append({"step": 6})
    assert read_records(path) == [{"step": step} for step in range(7)]
    said = [line for line in capsys.readouterr().out.splitlines() if "took no record (File too large)" in line]
    assert len(said) == 1
