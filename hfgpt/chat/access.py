"""Who may use a server of ours: this computer alone, or other machines too, which must then send a token. The token is
never printed."""

from __future__ import annotations

import argparse
import re
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from hfgpt.chat.address import is_loopback
from hfgpt.errors import UserError

MIN_TOKEN_LENGTH = 12  # characters; a guess a millisecond finds 12 random letters in three million years
MAKE_TOKEN = 'python -c "import secrets; print(secrets.token_urlsafe())" > token.txt'


def add_access(parser: argparse.ArgumentParser, port: int) -> argparse._ArgumentGroup:
    """`--host`, `--port`, `--token` and `--token_file`, in a group that is returned."""
    group = parser.add_argument_group("server")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this computer)")
    group.add_argument("--port", type=int, default=port, help=f"port to listen on; 0: any free one (default: {port})")
    group.add_argument("--token", metavar="TOKEN", help="what clients must send; other users see it in `ps`")
    group.add_argument("--token_file", metavar="FILE", type=Path, help="a file that holds the token and nothing else")
    return group


def token_of(args: argparse.Namespace) -> str | None:
    """The token that the flags say, None where everyone on this computer may come in.

    Raises UserError for a token that is no good, and for a host that others reach and no token protects.
    """
    if args.token is not None and args.token_file is not None:
        raise UserError("--token and --token_file both say the token: give one of them.")
    if args.token_file is None:
        token, flag = args.token, "--token"
    else:
        token, flag = _content(args.token_file), f"--token_file {args.token_file}"
    if token is None:
        if not is_loopback(args.host):
            raise UserError(
                f"--host {args.host} is open to the network: protect the model with --token_file token.txt, made by "
                f"{MAKE_TOKEN}"
            )
    elif len(token) < MIN_TOKEN_LENGTH or not re.fullmatch(r"[!-~]+", token):
        raise UserError(
            f"{flag}: a token must be of at least {MIN_TOKEN_LENGTH} printable ASCII characters without spaces; make "
            f"one by {MAKE_TOKEN}"
        )
    return token


def is_token(sent: str, token: str) -> bool:
    """Whether they are the same, in a time that does not tell how much of it is."""
    return secrets.compare_digest(sent.encode(), token.encode())


def bearer_of(authorization: str) -> str:
    """What a header `Authorization: Bearer TOKEN` carries; empty for any other."""
    kind, _, sent = authorization.partition(" ")
    return sent.strip() if kind.lower() == "bearer" else ""


def is_sent_to_this_computer(host_header: str) -> bool:
    """Whether a request was sent to this computer by its own name: a web page that somebody visits can make another
    name lead here, and so reach a server that only this computer reaches."""
    try:
        return is_loopback(urlsplit(f"//{host_header}").hostname or "")
    except ValueError:
        return False


def _content(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"--token_file {path} cannot be read ({reason}).") from None
