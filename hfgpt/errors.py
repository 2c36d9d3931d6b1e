"""The one exception that is the user's to mend, and how a command ends: exit code 0, 2 for the user, 1 for us."""

import errno
import logging
import sys
from collections.abc import Callable

# The exit code of a run that was told to end, has saved, and goes on with the same command: EX_TEMPFAIL of BSD's
# sysexits.h, "the user is invited to retry". No shell or launcher gives it to anything else.
STOPPED = 75

# What a disk or its owner refuses. A file that is missing is not among them: where the user named it, its reader says
# so, and else it is a bug of ours.
REFUSED_BY_THE_DISK = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
}


# What torchao says of itself wherever it is installed, since transformers imports it with every model: of kernels for
# other GPUs than this one, and of a call in its own code. The reader of a chat can do nothing about either.
LOUD_AT_IMPORT = ("torchao", "torch.utils._pytree")


class UserError(ValueError):
    """Something in a recipe, a flag, a file or a folder is wrong; the message is one sentence that says
    what, where (file, key, row) and what to do about it. Everything else that escapes is a bug of ours.

    It stays on one line, whatever line breaks the names in it have."""

    def __init__(self, sentence: object):
        super().__init__(" ".join(str(sentence).splitlines()))


def run_command(command: Callable[[list[str]], int | None], argv: list[str] | None = None) -> int:
    """Run `command(argv)` as a program: a UserError becomes its sentence on stderr and exit code 2, and so does what
    the disk refuses.

    `--debug` among the arguments lets the traceback through. Ctrl-C ends with 130, as a shell expects.
    """
    argv = sys.argv[1:] if argv is None else argv
    for name in LOUD_AT_IMPORT:
        logging.getLogger(name).addFilter(_is_error)  # of this logger alone: those below it keep their warnings
    try:
        return command(argv) or 0
    except UserError as error:
        if "--debug" in argv:
            raise
        print(f"hfgpt: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if "--debug" in argv or error.errno not in REFUSED_BY_THE_DISK:
            raise
        print(f"hfgpt: {error.filename or 'the disk'} cannot be used: {error.strerror}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hfgpt: interrupted.", file=sys.stderr)
        return 130


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
