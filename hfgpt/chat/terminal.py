"""`hfgpt chat DIR`: talk to a model in the terminal.

hfgpt chat runs/tiny                                  # the latest complete stage of a run
hfgpt chat runs/tiny/pretrain                         # a base model: it continues your text
hfgpt chat gpt2 --temperature 0.7                     # any causal language model of the Hub
hfgpt chat runs/tiny --prompt "Who are you?" > a.txt  # one answer, and nothing else, on standard output

Where standard input is no terminal, each of its lines is a turn. Exit code 2 and one sentence for what is yours to
mend.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from hfgpt.chat.arguments import add_model, add_sampling, load_engine, parser, sampling_of
from hfgpt.errors import UserError

if TYPE_CHECKING:
    from hfgpt.chat.terminal_chat import Chat


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code. Raises UserError for arguments or a model that cannot be used."""
    args = parse_args(argv)
    try:
        return chat(args)
    except BrokenPipeError:
        # Whoever read our output has enough (`| head`). Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    flags = parser("hfgpt chat", __doc__)
    add_model(flags)
    flags.add_argument("--prompt", help="answer this on standard output and exit")
    flags.add_argument("--system", default="", help="what the model is told before the conversation")
    flags.add_argument("--best", type=int, default=1, metavar="N", help="generate N answers and show the likeliest")
    flags.add_argument("--calculator", action="store_true", help="let the model call a calculator")
    flags.add_argument("--verbose", action="store_true", help="tokens, wait and speed of each answer on stderr")
    add_sampling(flags)
    args = flags.parse_args(sys.argv[1:] if argv is None else argv)
    if args.best < 1:
        raise UserError(f"--best must be at least 1, not {args.best}.")
    return args


def chat(args: argparse.Namespace) -> int:
    sampling = sampling_of(args)  # refused before anything heavy is loaded
    from hfgpt.chat.terminal_screen import Screen

    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    screen = Screen(interactive=args.prompt is None and sys.stdin.isatty() and sys.stdout.isatty())
    with screen.waiting(f"loading {args.model}"):
        from hfgpt.chat.terminal_chat import Chat
        from hfgpt.chat.terminal_session import Conversation, Session, Settings

        engine = load_engine(args)
    if args.system and not engine.is_chat:
        raise UserError(f"--system: {engine.name} only continues text, it has no system prompt.")
    if args.calculator and not engine.is_chat:
        raise UserError(f"--calculator: {engine.name} only continues text, it calls no calculator.")
    settings = Settings(sampling, best_of=args.best, calculator=args.calculator, system=args.system)
    session = Session(settings, Conversation(engine, settings))
    talk = Chat(session, screen, load=lambda name: load_engine(args, name), verbose=args.verbose)
    if args.prompt is not None:
        talk.reply_to(args.prompt)
        return 0
    return converse(talk)


def converse(chat: Chat) -> int:
    """Turns and commands until the end of the input or /quit. Returns the exit code: 2 where the chat is scripted and
    a line of it could not be done."""
    from hfgpt.chat.terminal_commands import COMMANDS, Quit, run_command_line
    from hfgpt.chat.terminal_input import TypedLines, input_prompt, piped_line, read_turn

    screen = chat.screen
    next_line: Callable[[str], str] = piped_line
    if screen.interactive:
        next_line = TypedLines([f"/{name}" for name in COMMANDS])
        chat.greet()
    prompt, continued = (input_prompt(text, screen.colour) for text in ("> ", "… "))
    failures = 0
    while True:
        try:
            turn = read_turn(next_line, prompt, continued)
            if turn.is_command:
                run_command_line(chat, turn.text)
            elif turn.text.strip():
                chat.reply_to(turn.text)
        except UserError as error:
            failures += 1
            screen.error(str(error))
        except KeyboardInterrupt:
            if not screen.interactive:
                raise
            screen.end_of_line()
            screen.notice("Ctrl-D or /quit leaves.")
        except EOFError:
            screen.end_of_line()
            break
        except Quit:
            break
    return 0 if screen.interactive or not failures else 2
