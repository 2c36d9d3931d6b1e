"""The commands of the terminal chat: `/name argument`. Settings share one way: `/name` shows, `/name X` sets, and
`/name off` switches off."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from hfgpt.chat.arguments import SAMPLING_FLAGS, with_setting
from hfgpt.chat.terminal_bench import bench, bench_table, peak_memory
from hfgpt.chat.terminal_chat import Chat, title
from hfgpt.chat.terminal_session import Conversation
from hfgpt.errors import UserError


class Quit(Exception):
    """The user wants to leave."""


class Command(NamedTuple):
    run: Callable[[Chat, str], None]
    argument: str
    help: str


def run_command_line(chat: Chat, line: str) -> None:
    """Run "/name argument". Raises UserError for a command that is not there or cannot be done, Quit for /quit."""
    name, _, argument = line[1:].partition(" ")
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        nearest = f"the nearest is /{close[0]}" if close else "/help lists them"
        raise UserError(f"there is no command /{name}; {nearest} (with a space in front it is sent as text).")
    COMMANDS[name].run(chat, argument.strip())


def show_help(chat: Chat, _: str) -> None:
    table = Table.grid(padding=(0, 2))
    for name, command in COMMANDS.items():
        table.add_row(f"/{name} {command.argument}".rstrip(), command.help)
    table.add_row("", "")
    table.add_row("/name, /name off", "shows a setting, or switches it off")
    table.add_row("Ctrl-C", "stops an answer and keeps what came")
    table.add_row("Ctrl-D", "leaves")
    table.add_row("\\ at the end", 'the turn goes on in the next line; """ begins and ends one of many lines')
    chat.screen.table(table)


def set_sampling(name: str, chat: Chat, word: str) -> None:
    settings = chat.session.settings
    if word:
        settings.sampling = with_setting(settings.sampling, name, word)
    value = vars(settings.sampling)[name]
    chat.screen.notice(f"{name} {'off' if value is None else value}")


def set_best(chat: Chat, word: str) -> None:
    if word:
        best_of = 1 if word == "off" else _whole_number("best", word)
        if best_of < 1:
            raise UserError(f"best must be at least 1, not {best_of}.")
        chat.session.settings.best_of = best_of
    best_of = chat.session.settings.best_of
    chat.screen.notice("best off" if best_of == 1 else f"best {best_of}: the likeliest of {best_of} answers is shown")


def set_calculator(chat: Chat, word: str) -> None:
    if word not in ("", "on", "off"):
        raise UserError(f"calculator is on or off, not {word!r}.")
    if word:
        _require_chat_model(chat, "calculator")
        chat.session.settings.calculator = word == "on"
    chat.screen.notice(f"calculator {'on' if chat.session.settings.calculator else 'off'}")


def set_system(chat: Chat, text: str) -> None:
    if text:
        _require_chat_model(chat, "system")
        chat.session.settings.system = "" if text == "off" else text
    chat.screen.notice(f"system {chat.session.settings.system or 'off'}")


def show_settings(chat: Chat, _: str) -> None:
    for name in SAMPLING_FLAGS:
        set_sampling(name, chat, "")
    set_best(chat, "")
    set_calculator(chat, "")
    set_system(chat, "")


def clear(chat: Chat, _: str) -> None:
    for conversation in chat.session.conversations:
        conversation.exchanges.clear()
    chat.screen.notice("a new conversation")


def retry(chat: Chat, _: str) -> None:
    chat.retry()


def save(chat: Chat, name: str) -> None:
    if not name:
        raise UserError("/save needs a file: /save talk.json (or .jsonl).")
    turns = chat.session.save(Path(name).expanduser())
    chat.screen.notice(f"{turns} {'turn' if turns == 1 else 'turns'} saved in {name}")


def compare(chat: Chat, name: str) -> None:
    session = chat.session
    if name == "off":
        session.compared.clear()
    elif name:
        with chat.screen.waiting(f"loading {name}"):
            other = chat.load(name)
        session.compared = [Conversation(engine, session.settings) for engine in (session.conversation.engine, other)]
    if session.compared:
        names = " and ".join(title(conversation.engine) for conversation in session.compared)
        chat.screen.notice(f"the next prompts go to {names}, each in a new conversation, until /compare off")
    else:
        chat.screen.notice(f"prompts go to {title(session.conversation.engine)}")


def run_bench(chat: Chat, _: str) -> None:
    for conversation in chat.session.conversations:
        engine = conversation.engine
        results = []
        try:
            with chat.screen.waiting(f"{title(engine)} answers"):
                for result in bench(engine):
                    results.append(result)
        except KeyboardInterrupt:
            if not chat.screen.interactive:
                raise
        chat.screen.table(bench_table(title(engine), results, peak_memory(engine)))


def leave(chat: Chat, _: str) -> None:
    raise Quit


def _require_chat_model(chat: Chat, name: str) -> None:
    if not any(conversation.engine.is_chat for conversation in chat.session.conversations):
        raise UserError(f"/{name} is for chat models: this one only continues text.")


def _whole_number(name: str, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise UserError(f"{name} takes a whole number, not {word!r}.") from None


COMMANDS: dict[str, Command] = {
    "help": Command(show_help, "", "what you can type"),
    "system": Command(set_system, "TEXT", "what the model is told before the conversation"),
    **{
        name: Command(partial(set_sampling, name), "X", explanation)
        for name, (_, explanation) in SAMPLING_FLAGS.items()
    },
    "best": Command(set_best, "N", "generate N answers and show the likeliest"),
    "calculator": Command(set_calculator, "on|off", "let the model call a calculator"),
    "settings": Command(show_settings, "", "all of these settings"),
    "compare": Command(compare, "MODEL|off", "the next prompts to this model too, side by side"),
    "bench": Command(run_bench, "", "a few fixed prompts: speed, wait for the first token, memory"),
    "retry": Command(retry, "", "answer the last prompt anew"),
    "clear": Command(clear, "", "begin a new conversation"),
    "save": Command(save, "FILE", "the conversation as JSON (or .jsonl), in the form that sft reads"),
    "quit": Command(leave, "", "leave"),
}
