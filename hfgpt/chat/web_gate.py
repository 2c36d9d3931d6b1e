"""What the page's server answers at all: the addresses that the page itself asks for, and requests of a bounded size.

Gradio's server also offers uploads, files, a proxy and more; none of it is needed here, so none of it is reachable.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PAGES = ("/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json")
CALLS = ("info", "app_id", "startup-events", "theme.css", "queue/data")
CHANGES = ("queue/join", "cancel", "reset")
API = "/gradio_api/"


class Gate:
    """ASGI middleware: 404 for other addresses, 413 for a body over `max_body_bytes`, 411 for one of unknown size."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]], max_body_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
            return
        status, reason = refusal
        body = reason.encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        """Status and sentence for a request that is not answered; None for one that is."""
        path, method = scope["path"], scope["method"]
        call = path.removeprefix(API).rstrip("/") if path.startswith(API) else None
        if method in ("GET", "HEAD"):
            known = path in PAGES or path.startswith(("/assets/", "/static/")) or call in CALLS
            known = known or (call is not None and call.startswith("heartbeat/"))
            return None if known else (404, "There is nothing here.")
        if method == "OPTIONS":
            return None
        if method != "POST" or call not in CHANGES:
            return 404, "There is nothing here."
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return 411, "Say how long the request is (Content-Length)."
        if int(length) > self.max_body_bytes:
            return 413, f"The request has {int(length):,} bytes; at most {self.max_body_bytes:,} are read."
        return None
