"""Addresses that a server of ours listens on."""

import ipaddress
import socket

from hfgpt.errors import UserError


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that owns `host` and `port` (0: any free one) but does not listen yet. Raises UserError where it
    cannot be had."""
    if not 0 <= port <= 65535:  # the system would take it modulo 65536
        raise UserError(f"--port must be from 0 to 65535, not {port}.")
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot listen on {host}, port {port} ({reason}): choose others by --host, --port.") from None
    return bound
