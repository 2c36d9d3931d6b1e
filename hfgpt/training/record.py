"""metrics.jsonl: one JSON object a record, appended while a run lives and cut back to the resumed step on resume.

Also keeps the clock of a run: seconds of training, without evaluations, samples and saves.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hfgpt.errors import UserError
from hfgpt.training.record_file import RecordFile

METRICS_FILE = "metrics.jsonl"


class RunRecord:
    """Writes a run's metrics and turns steps into tokens, FLOPs and seconds.

    `peak_flops` is the dense peak of all devices together, None where it is unknown (then no MFU is written).
    Only the process that is given `write=True` touches the file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tokens_per_step: float,
        flops_per_token: float,
        rows_per_epoch: float | None,
        rows_per_step: int,
        peak_flops: float | None = None,
        write: bool = True,
        synchronize: Callable[[], None] = lambda: None,
    ):
        self.path = folder / METRICS_FILE
        self._file = RecordFile(self.path)
        self.tokens_per_step = tokens_per_step
        self.flops_per_token = flops_per_token
        self.rows_per_epoch = rows_per_epoch
        self.rows_per_step = rows_per_step
        self.peak_flops = peak_flops
        self.write = write
        self.synchronize = synchronize  # waits for the device's queue, before the clock is read
        self.seconds = 0.0
        self.last_tokens = 0  # of the newest record
        self._running_since: float | None = None
        self._last_speed = (0, 0.0)  # step and seconds of the record before

    def start(self, step: int, seconds: float | None = None) -> None:
        """Begin, or go on after `step`: records of later steps are dropped, the clock goes on.

        `seconds` is what the clock had shown at that step; by default what the last record kept says.
        """
        kept = keep_records(self.path, step, self.write)
        if seconds is None:
            seconds = kept[-1].get("seconds", 0.0) if kept else 0.0
        self.seconds = seconds
        self.last_tokens = kept[-1]["tokens"] if kept else 0
        self._last_speed = (step, self.seconds)
        self._running_since = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count as training."""
        was_running = self._running_since is not None
        self.stop()
        try:
            yield
        finally:
            if was_running:
                self._running_since = time.perf_counter()

    def stop(self) -> None:
        if self._running_since is not None:
            self.synchronize()
            self.seconds += time.perf_counter() - self._running_since
            self._running_since = None

    def elapsed(self) -> float:
        """Seconds of training until now."""
        running = time.perf_counter() - self._running_since if self._running_since is not None else 0.0
        return self.seconds + running

    def speed(self, step: int) -> dict[str, float]:
        """tokens_per_second since the call before and, where the peak is known, mfu and that peak_flops."""
        seconds = self.elapsed()
        last_step, last_seconds = self._last_speed
        self._last_speed = (step, seconds)
        if step <= last_step or seconds <= last_seconds or not self.tokens_per_step:
            return {}
        rate = (step - last_step) * self.tokens_per_step / (seconds - last_seconds)
        if not self.peak_flops:
            return {"tokens_per_second": rate}
        mfu = rate * self.flops_per_token / self.peak_flops
        return {"tokens_per_second": rate, "mfu": mfu, "peak_flops": self.peak_flops}

    def append(self, step: int, values: dict[str, Any]) -> dict[str, Any]:
        """Write one record: the step with its tokens, FLOPs, seconds and epoch, then `values`, among which `tokens`
        may stand where they were counted."""
        values = dict(values)
        self.last_tokens = tokens = round(values.pop("tokens", step * self.tokens_per_step))
        record: dict[str, Any] = {
            "step": step,
            "tokens": tokens,
            "flops": tokens * self.flops_per_token,
            "seconds": round(self.elapsed(), 3),
        }
        if self.rows_per_epoch:
            record["epoch"] = round(step * self.rows_per_step / self.rows_per_epoch, 4)
        record.update(values)
        if self.write:
            self._file.append(record)
        return record


def keep_records(path: Path, step: int, write: bool = True) -> list[dict[str, Any]]:
    """Drop the records of steps after `step` from the file (none are touched without `write`); returns the others."""
    kept = [record for record in read_records(path) if record["step"] <= step]
    if write and path.is_file():
        temporary = path.with_suffix(".tmp")
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
        temporary.write_text("".join(lines), encoding="utf-8")
        temporary.replace(path)
    return kept


def read_records(path: Path, key: str = "step") -> list[dict[str, Any]]:
    """Records of a JSON-lines file in order; none where there is no file. A torn last line is dropped.

    Raises UserError for any other line that is no object with `key`.
    """
    if not path.is_file():
        return []
    records = []
    # Not splitlines(): a text in a record may hold other characters that Python takes for ends of lines.
    lines = path.read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            record = None
        if not isinstance(record, dict) or key not in record:
            raise UserError(f"{path}: line {number} is no record with a {key}: remove the line.")
        records.append(record)
    return records
