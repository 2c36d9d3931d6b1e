"""What a user types: lines edited by readline with a history that outlives the chat, and turns of several lines."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

try:
    import readline
except ImportError:  # Windows: input() works, without history
    readline = None  # type: ignore[assignment]

HISTORY_LINES = 2000
# No such file yet, one that may not be read or written or is no text, a user without a home: the chat works without.
NO_HISTORY = (OSError, UnicodeError, RuntimeError)
QUOTES = '"""'


def history_file() -> Path:
    """In the XDG state directory."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "hfgpt" / "chat_history"


def input_prompt(text: str, colour: bool) -> str:
    """A prompt for readline, which must be told what takes no room on the line."""
    return f"\001\033[1;36m\002{text}\001\033[0m\002" if colour else text


class TypedLines:
    """Lines from the terminal, with editing, history and completion of the words in `commands`."""

    def __init__(self, commands: Sequence[str]) -> None:
        self._commands = commands
        if readline is None:
            return
        readline.set_completer(self._complete)
        readline.set_completer_delims(" ")
        libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
        readline.set_history_length(HISTORY_LINES)
        with suppress(*NO_HISTORY):
            readline.read_history_file(history_file())

    def _complete(self, text: str, state: int) -> str | None:
        fitting = [command for command in self._commands if text.startswith("/") and command.startswith(text)]
        return fitting[state] if state < len(fitting) else None

    def __call__(self, prompt: str) -> str:
        """The next line. Raises EOFError at Ctrl-D and KeyboardInterrupt at Ctrl-C."""
        line = input(prompt)
        if readline is not None:
            with suppress(*NO_HISTORY):  # now, and not at the end: a closed window ends the program without asking
                history_file().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                readline.write_history_file(history_file())
        return line


def piped_line(prompt: str) -> str:
    """The next line of a stdin that is no terminal. Raises EOFError at its end."""
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")


class Turn(NamedTuple):
    text: str
    is_command: bool


def read_turn(next_line: Callable[[str], str], prompt: str, continued: str) -> Turn:
    """One turn: a line, lines that end with a backslash and the one after them, or what stands between triple quotes
    (never a command).

    `next_line(prompt)` gives a line; after the first it is asked with `continued`. Raises EOFError at the end of the
    input; an end in the middle of a turn ends the turn.
    """
    line = next_line(prompt)
    lines: list[str] = []
    quoted = line.lstrip().startswith(QUOTES)
    if quoted:
        line = line.lstrip().removeprefix(QUOTES)
    try:
        while line.endswith("\\") if not quoted else not line.rstrip().endswith(QUOTES):
            lines.append(line if quoted else line[:-1])
            line = next_line(continued)
        lines.append(line.rstrip().removesuffix(QUOTES) if quoted else line)
    except EOFError:
        pass
    text = "\n".join(lines)
    return Turn(text.strip("\n") if quoted else text, is_command=not quoted and text.startswith("/"))
