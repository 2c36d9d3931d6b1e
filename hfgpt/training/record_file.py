"""A file of records that a run appends to, and that outlives a full disk without stopping the run."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm


class RecordFile:
    """JSON lines in `path`. Records that the disk refuses wait in memory, and are written before the next one."""

    def __init__(self, path: Path):
        self.path = path
        self._waiting: list[str] = []

    def append(self, record: dict[str, Any]) -> None:
        self._waiting.append(json.dumps(record, ensure_ascii=False) + "\n")
        whole = self.path.stat().st_size if self.path.is_file() else 0
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(self._waiting))
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.path, whole)  # a record is there whole or not at all
            if len(self._waiting) == 1:
                tqdm.write(f"{self.path} took no record ({error.strerror}): they wait until it does; the run goes on.")
        else:
            self._waiting = []
