"""`hfgpt serve` in a real process."""

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from commands import PROGRAMS, REPOSITORY

SERVE = (str(PROGRAMS / "hfgpt"), "serve")


class ServerProcess:
    """A server that listens: its address (`url`, which ends in /v1) and what it has printed, stderr included."""

    def __init__(self, *words: str | Path, program: Sequence[str] = SERVE) -> None:
        self.process = subprocess.Popen(
            [*program, *map(str, words), "--port", "0"],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        self.lines: list[str] = []
        self.url = ""
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("Serving "):
                self.url = line.split()[3]
                break
        assert self.url, f"the server did not start: {self.output}"
        self._reader = Thread(target=lambda: self.lines.extend(self.process.stdout or ()), daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send the signal and wait: the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        self._reader.join(timeout=10)
        return code


@contextmanager
def server_process(*words: str | Path, program: Sequence[str] = SERVE) -> Iterator[ServerProcess]:
    """`hfgpt serve WORDS` on a free port, or another `program` in its place; killed at the end if it still runs."""
    server = ServerProcess(*words, program=program)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()
        print(server.output)
