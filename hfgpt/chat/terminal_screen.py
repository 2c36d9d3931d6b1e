"""What the chat draws, with rich. Whatever comes from a model or a user is drawn as text: never as rich's markup, and
never with a control character that the terminal would obey."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

# C0 and DEL become Unicode's control pictures. C1 (8-bit escape sequences), the characters that reverse the direction
# of what follows, and lone surrogates, which no encoding writes, become U+FFFD. Newline and tab stay.
_PICTURES: dict[int, int | str] = {code: 0x2400 + code for code in range(0x20) if code not in (0x09, 0x0A)}
_HARMLESS = (
    _PICTURES
    | {0x7F: "\u2421"}
    | dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")
    | dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
)


def printable(text: str) -> str:
    """`text` with every character that a terminal would obey replaced by one that it shows."""
    return text.translate(_HARMLESS)


def _console(stderr: bool = False) -> Console:
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


class Screen:
    """Standard output for answers and tables. Notices and errors go there too in a terminal chat; where the chat is
    scripted they go to standard error, so that standard output holds what was asked for and nothing else."""

    def __init__(self, interactive: bool) -> None:
        self.interactive = interactive
        self.console = _console()

    def banner(self, name: str, facts: Sequence[str]) -> None:
        self.console.print(Text.assemble((printable(name), "bold"), (" · ".join(("", *facts)), "dim")))
        self.notice("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.")

    def waiting(self, text: str) -> AbstractContextManager[Any]:
        """A line that says what is being waited for and goes away again, where someone is watching."""
        errors = _console(stderr=True)
        return errors.status(Text(printable(text)), spinner="line") if errors.is_terminal else nullcontext()

    def notice(self, text: str) -> None:
        self._aside(printable(text), "dim")

    def error(self, text: str) -> None:
        self._aside(printable(text if self.interactive else f"hfgpt: {text}"), "red")

    def _aside(self, text: str, style: str) -> None:
        if self.interactive:
            self.console.print(Text(text, style=style))
        else:
            print(text, file=sys.stderr)

    def text(self, text: str) -> None:
        """A piece of an answer, as it comes."""
        self.console.file.write(printable(text))
        self.console.file.flush()

    def remark(self, text: str) -> None:
        """A word in the middle of an answer that the model did not say; a notice where the chat is scripted."""
        if self.interactive:
            self.console.out(printable(f" [{text}] "), style="dim", end="")
        else:
            self.notice(text)

    def text_to_continue(self, text: str) -> None:
        """A base model's prompt, which its continuation follows on the same line."""
        if self.interactive:
            self.console.out(printable(text), style="dim", end="")

    def end_of_answer(self, ending: str) -> None:
        """`ending` says why the answer ended, where it did not end by itself."""
        if self.interactive:
            self.console.out(f" [{ending}]" if ending else "", style="yellow")
            return
        self.text("\n")
        if ending:
            self.notice(ending)

    def end_of_line(self) -> None:
        """After a key that left the cursor behind the prompt."""
        if self.interactive:
            self.console.line()

    def table(self, table: RenderableType) -> None:
        self.console.print(table)

    @property
    def colour(self) -> bool:
        console = self.console
        return console.is_terminal and not console.is_dumb_terminal and not console.no_color


class Columns:
    """Answers side by side, redrawn as they grow; where the output is no terminal, one below the other at the end."""

    def __init__(self, screen: Screen, titles: Sequence[str]) -> None:
        self._screen, self._console = screen, screen.console
        self._titles = [printable(title) for title in titles]
        # Plain strings: the thread that draws must never see one half changed.
        self._texts = ["" for _ in titles]
        self._footers = ["" for _ in titles]
        self._growing = True
        self._live = Live(get_renderable=self._drawn, console=self._console, refresh_per_second=12)

    def __enter__(self) -> Columns:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._growing = False
        if self._console.is_terminal:
            self._live.stop()
            return
        for title, text, footer in zip(self._titles, self._texts, self._footers, strict=True):
            self._screen.text(f"{title}: {text}\n")
            self._screen.notice(f"{title}: {footer}")

    def text(self, column: int, text: str) -> None:
        self._texts[column] += printable(text)

    def footer(self, column: int, text: str) -> None:
        self._footers[column] = printable(text)

    def _drawn(self) -> RenderableType:
        """While the answers grow, their last lines: no more than the screen holds."""
        gap = 3
        width = max(10, (self._console.width - gap * (len(self._titles) - 1)) // len(self._titles))
        grid = Table.grid(padding=(0, gap, 0, 0))
        for _ in self._titles:
            grid.add_column(width=width)
        grid.add_row(*(Text(title, style="bold cyan", overflow="ellipsis", no_wrap=True) for title in self._titles))
        answers = [list(Text(text).wrap(self._console, width)) for text in self._texts]
        if self._growing:
            answers = [lines[-max(1, self._console.height - 5) :] for lines in answers]
        grid.add_row(*(Group(*lines) for lines in answers))
        grid.add_row(*(Text(footer, style="dim") for footer in self._footers))
        return grid
