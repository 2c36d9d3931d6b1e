"""The one exception that is the user's to mend, and how a command ends: exit code 0, 2 for the user, 1 for us."""

import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something in a recipe, a flag, a file or a folder is wrong; the message is one sentence that says
    what, where (file, key, row) and what to do about it. Everything else that escapes is a bug of ours."""


def run_command(command: Callable[[list[str]], int | None], argv: list[str] | None = None) -> int:
    """Run `command(argv)` as a program: a UserError becomes its sentence on stderr and exit code 2.

    `--debug` among the arguments lets the traceback through. Ctrl-C ends with 130, as a shell expects.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        return command(argv) or 0
    except UserError as error:
        if "--debug" in argv:
            raise
        print(f"hfgpt: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hfgpt: interrupted.", file=sys.stderr)
        return 130
