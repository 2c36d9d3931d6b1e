"""`hfgpt chat` in a terminal: real processes on a pseudo terminal, typed at key by key."""

import json
import os
import pty
import re
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import PROGRAMS

CTRL_C, CTRL_D, UP, TAB = "\x03", "\x04", "\x1b[A", "\t"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")


class Terminal:
    """`hfgpt chat WORDS` as the child of a pseudo terminal of 100 columns."""

    def __init__(self, *words: str | Path, state: Path) -> None:
        self.raw = b""
        self._seen = 0
        self.pid, self._keys = pty.fork()
        if self.pid == 0:
            environment = os.environ | {"XDG_STATE_HOME": str(state), "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
            os.execve(PROGRAMS / "hfgpt", ["hfgpt", "chat", *map(str, words)], environment)

    @property
    def text(self) -> str:
        """All that was shown, without colours and cursor movements."""
        return ESCAPES.sub("", self.raw.decode(errors="replace")).replace("\r", "")

    def shows(self, what: str, timeout: float) -> bool:
        """Whether `what` comes within so many seconds."""
        limit = time.monotonic() + timeout
        while what not in self.text[self._seen :]:
            left = limit - time.monotonic()
            if left < 0:
                return False
            if select.select([self._keys], [], [], left)[0]:
                try:
                    self.raw += os.read(self._keys, 65536)
                except OSError:  # the child has ended
                    return what in self.text[self._seen :]
        return True

    def wait_for(self, what: str, timeout: float = 90) -> str:
        """What was shown since the last wait, once `what` is among it."""
        assert self.shows(what, timeout), f"{what!r} did not come:\n{self.text}"
        end = self.text.index(what, self._seen) + len(what)
        shown, self._seen = self.text[self._seen : end], end
        return shown

    def interrupt_prompt(self) -> None:
        """Ctrl-C until it is heard: input() misses one that comes while it is still drawing the prompt."""
        for _ in range(10):
            self.type(CTRL_C)
            if self.shows("Ctrl-D or /quit leaves.", timeout=3):
                break
        self.wait_for("Ctrl-D or /quit leaves.\n> ")

    def type(self, keys: str) -> None:
        os.write(self._keys, keys.encode())

    def exit_code(self) -> int:
        """Once the process has ended."""
        while True:
            try:
                if not os.read(self._keys, 65536):
                    break
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # it has ended, as it should
        os.close(self._keys)


@pytest.fixture
def open_terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*words: str | Path, state: Path) -> Terminal:
        opened.append(Terminal(*words, "--temperature", "0", state=state))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


@pytest.fixture(scope="module")
def endless_model(chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chat model with room for 100,000 tokens, and no way to say <|end|>."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import hfgpt.model  # noqa: F401  registers with the Auto classes

    model: Any = AutoModelForCausalLM.from_pretrained(chat_model)
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = 0.0
    model.config.max_position_embeddings = 100_000
    folder = tmp_path_factory.mktemp("endless_model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_chat_with_history_completion_and_ctrl_d(open_terminal, chat_model, tmp_path):
    terminal = open_terminal(chat_model, state=tmp_path)
    banner = terminal.wait_for("> ")
    assert re.search(r"k parameters · cpu, float32 · context 256 tokens · chat\n", banner)
    assert "/help lists the commands" in banner
    terminal.type("What is your name?\r")
    assert "My name is Tiny.\n" in terminal.wait_for("> ")
    terminal.interrupt_prompt()
    terminal.type("half a line")
    terminal.wait_for("half a line")
    terminal.interrupt_prompt()
    terminal.type("/tempe" + TAB + " 0.5\r")
    assert "temperature 0.5\n" in terminal.wait_for("> ")
    terminal.type("/settngs\r")
    assert "the nearest is /settings" in terminal.wait_for("> ")
    terminal.type(CTRL_D)
    assert terminal.exit_code() == 0
    history = tmp_path / "hfgpt" / "chat_history"
    assert history.read_text().splitlines() == ["What is your name?", "/temperature 0.5", "/settngs"]
    assert history.stat().st_mode & 0o077 == 0, "what was typed is nobody else's business"


def test_ctrl_c_stops_the_answer_and_keeps_what_came(open_terminal, endless_model, tmp_path):
    history = tmp_path / "hfgpt" / "chat_history"
    history.parent.mkdir()
    history.write_text("What is your name?\n")
    terminal = open_terminal(endless_model, "--max_new_tokens", "90000", state=tmp_path)
    terminal.wait_for("> ")
    terminal.type(UP + "\r")  # the prompt of an earlier chat
    terminal.wait_for("What is your name?\n")
    terminal.wait_for("My name")  # streamed: this answer would take minutes
    terminal.type(CTRL_C)
    shown = "My name" + terminal.wait_for("[stopped]", timeout=10).removesuffix("^C [stopped]")
    terminal.wait_for("> ")
    file = tmp_path / "talk.json"
    terminal.type(f"/save {file}\r")
    terminal.wait_for("1 turn saved")
    terminal.type("/max_new_tokens 5\rCount to ten.\r")
    assert "[cut off after 5 tokens]" in terminal.wait_for("5 tokens]")
    terminal.type("/quit\r")
    assert terminal.exit_code() == 0
    (row,) = json.loads(file.read_text())
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    assert shown.replace("\n", "") == row["messages"][1]["content"].replace("\n", "")


def test_two_models_answer_side_by_side(open_terminal, chat_model, base_model, tmp_path):
    unwritable = tmp_path / "a_file"
    unwritable.write_text("")  # where the history's folder would be: the chat must not mind
    terminal = open_terminal(chat_model, "--max_new_tokens", "30", state=unwritable)
    terminal.wait_for("> ")
    terminal.type(f"/compare {base_model}\r")
    terminal.wait_for("until /compare off\n")
    terminal.wait_for("> ")
    terminal.type("What is your name?\r")
    shown = terminal.wait_for("> ").splitlines()
    (heads, *_) = [line for line in shown if "(continues text)" in line]
    assert heads.index(chat_model.name) < 30 and heads.index(base_model.name) > 40
    (answers, *_) = [line for line in reversed(shown) if line.startswith("My name is Tiny.")]
    assert len(answers.removeprefix("My name is Tiny.").strip()) > 10, "the base model's text stands beside it"
    assert "30 tokens" in shown[-2] or "30 tokens" in "".join(shown[-4:])
    terminal.type("/compare off\r/quit\r")
    assert terminal.exit_code() == 0
