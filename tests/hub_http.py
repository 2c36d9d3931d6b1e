"""The HTTP side of the Hub stand-in: reads requests, finds who asks for which repo, sends replies and files with
ranges, and lets faults happen. What the Hub answers is in hub_api.py."""

import json
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from hub_store import Commit, Fault, Repo

if TYPE_CHECKING:
    from hub_server import HubServer

REPO_TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass(frozen=True)
class Request:
    """One request as the server saw it, for tests that count them or look at their headers."""

    method: str
    path: str
    headers: dict[str, str]


class HubError(Exception):
    """An answer of the Hub that is an error; `code` is its X-Error-Code, which the client turns into a class."""

    def __init__(self, status: int, code: str | None, message: str):
        super().__init__(message)
        self.status, self.code = status, code


class HubConnection(BaseHTTPRequestHandler):
    """Answers the requests of one connection; `hub` is the server that it belongs to, `routes` what it can answer:
    (methods, pattern of the path, function of the connection and the pattern's groups that returns a reply)."""

    hub: "HubServer"
    routes: list[tuple[list[str], re.Pattern, Callable]] = []
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        """Finds the route, lets a fault or an error answer instead, and keeps the connection in step."""
        self.hub.requests.append(Request(self.command, self.path, dict(self.headers)))
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        try:
            fault = self.hub.faults.take(self.command, self.path, body=False)
            if fault is not None:
                time.sleep(fault.delay_seconds)
            self.body = self.read_body(body_may_fail=fault is None or fault.status is None)
            if fault is not None and fault.status is not None:
                return self.send_bytes(fault.status, b"the stand-in was told to fail", fault.headers)
            for methods, pattern, handle in self.routes:
                match = pattern.fullmatch(url.path.strip("/"))
                if match and self.command in methods:
                    captured = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                    with self.hub.store.lock:
                        reply = handle(self, **self.with_repo(handle.__name__, captured))
                    return reply()
            raise HubError(404, None, f"the stand-in has no route {self.command} {url.path}")
        except HubError as error:
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
            self.send_bytes(error.status, json.dumps({"error": str(error)}).encode(), headers)
        except (ConnectionError, _Dropped):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, format: str, *args) -> None:
        """Tests look at `hub.requests`; nothing goes to stderr."""

    def read_body(self, body_may_fail: bool) -> bytes:
        fault = Fault()
        if body_may_fail and self.command == "PUT":
            fault = self.hub.faults.take(self.command, self.path, body=True) or fault
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        length = int(self.headers.get("Content-Length") or 0)
        if fault.drop_after_bytes is not None:
            self.rfile.read(min(length, fault.drop_after_bytes))
            raise _Dropped
        if fault.bytes_per_second is not None:
            time.sleep(length / fault.bytes_per_second)
        return self.rfile.read(length)

    def user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.store.tokens:
            raise HubError(401, None, "Invalid credentials in Authorization header")
        return self.hub.store.tokens.get(token)

    def with_repo(self, route: str, captured: dict[str, str]) -> dict:
        """Turns a captured `type` and `repo_id` into the Repo, if this user may see it."""
        if "repo_id" not in captured:
            return captured
        user, repo_type = self.user(), REPO_TYPES[captured.pop("type", "models")]
        repo = self.hub.store.repos.get((repo_type, captured["repo_id"]))
        owner = captured.pop("repo_id").split("/")[0]
        if repo is None or (repo.private and user != owner):
            raise HubError(404 if user else 401, "RepoNotFound", "Repository not found")
        if repo.gated and user != owner and route in ("resolve", "auth_check"):
            raise HubError(403 if user else 401, "GatedRepo", f"Access to {repo.repo_id} is restricted")
        if self.command in ("POST", "PUT", "DELETE") and route != "paths_info":
            self.check_may_write(owner)
        return {"repo": repo, **captured}

    def check_may_write(self, owner: str | None) -> None:
        """Users write to their own namespace only."""
        if (user := self.user()) is None or user != owner:
            raise HubError(403 if user else 401, None, f"You don't have the rights to write to {owner}")

    def at(self, repo: Repo, revision: str) -> Commit:
        commit = repo.resolve(revision)
        if commit is None:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    # Replies: every route returns a function that sends, so that slow lines do not hold the store's lock.

    def json(self, value, status: int = 200, headers: dict[str, str] | None = None):
        data = json.dumps(value).encode()
        return lambda: self.send_bytes(status, data, {"Content-Type": "application/json", **(headers or {})})

    def send_bytes(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def file(self, data: bytes, headers: dict[str, str]):
        """Sends a file or the range of it that was asked for, with any fault that waits for it."""

        def reply() -> None:
            fault = self.hub.faults.take(self.command, self.path, body=True) if self.command == "GET" else None
            fault = fault or Fault()
            content = data if fault.truncate_to_bytes is None else data[: fault.truncate_to_bytes]
            if (position := fault.flip_byte_at) is not None:
                content = content[:position] + bytes([content[position] ^ 255]) + content[position + 1 :]
            wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
            first, last = _range(wanted, len(content))
            if wanted and first >= len(content):
                return self.send_bytes(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            range_header = {"Content-Range": f"bytes {first}-{last}/{len(content)}"} if wanted else {}
            body = content[first : last + 1]
            headers_here = {"Content-Length": str(len(body)), "Accept-Ranges": "bytes", **headers, **range_header}
            self.send_bytes(206 if wanted else 200, b"", headers_here)
            if self.command == "GET":
                self.send_slowly_or_drop(body, fault)

        return reply

    def send_slowly_or_drop(self, body: bytes, fault: Fault) -> None:
        dropped = fault.drop_after_bytes is not None and fault.drop_after_bytes < len(body)
        body = body[: fault.drop_after_bytes] if dropped else body
        step = len(body) if fault.bytes_per_second is None else max(1, int(fault.bytes_per_second * 0.05))
        for start in range(0, len(body), step or 1):
            self.wfile.write(body[start : start + step])
            self.wfile.flush()
            if fault.bytes_per_second is not None:
                time.sleep(0.05)
        if dropped:
            self.connection.shutdown(socket.SHUT_RDWR)
            raise _Dropped


class _Dropped(Exception):
    """The connection is cut on purpose."""


def _range(wanted: re.Match | None, size: int) -> tuple[int, int]:
    """First and last byte of a Range header's span; of the whole file without one."""
    if wanted is None:
        return 0, size - 1
    first, last = wanted.groups()
    if not first:
        return max(0, size - int(last)), size - 1
    return int(first), min(int(last), size - 1) if last else size - 1
