"""Commands as a user types them, in real processes."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PROGRAMS = Path(sys.executable).parent


def run(
    *words: str | Path,
    timeout: float = 600,
    stdin: str | None = None,
    folder: Path = REPOSITORY,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`, by default the repository's; its output is kept, and shown by pytest where a test
    fails.

    The first word may be one of the programs beside this Python (hfgpt, accelerate, torchrun, lm_eval, python).
    """
    program, *rest = map(str, words)
    done = subprocess.run(
        [str(PROGRAMS / program), *rest],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        input=stdin,
        timeout=timeout,
    )
    print(f"$ {' '.join(map(str, words))}\n{done.stdout}{done.stderr[-6000:]}(exit code {done.returncode})")
    return done


def succeed(
    *words: str | Path, timeout: float = 600, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`run`, which must end with exit code 0."""
    done = run(*words, timeout=timeout, stdin=stdin, **environment)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-3000:]}"
    return done


def sentence_of_failure(*words: str | Path, timeout: float = 120, **environment: str) -> str:
    """`run`, which must end with exit code 2 and one sentence on stderr, without a traceback; returns the sentence."""
    done = run(*words, timeout=timeout, **environment)
    assert done.returncode == 2, f"exit code {done.returncode}: {done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr
    sentences = [line for line in done.stderr.splitlines() if line.startswith("hfgpt: ")]
    assert len(sentences) == 1, done.stderr
    return sentences[0]
