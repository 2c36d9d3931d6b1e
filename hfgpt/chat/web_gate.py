"""What the page's server answers at all: who has the token, where there is one, the addresses that the page itself
asks for, and requests of a bounded size.

Gradio's server also offers uploads, files, a proxy and more; none of it is needed here, so none of it is reachable.
"""

from __future__ import annotations

import html
import secrets
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from hfgpt.chat.access import bearer_of, is_sent_to_this_computer, is_token

PAGES = ("/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json")
CALLS = ("info", "app_id", "startup-events", "theme.css", "queue/data")
CHANGES = ("queue/join", "cancel", "reset")
API = "/gradio_api/"
STARTED = f"{API}startup-events"  # by which gradio asks its own server whether it is up
ENTRANCE = "/enter"  # where the form below sends the token
MAX_FORM_BYTES = 4096
COOKIE = "hfgpt_visitor"
FORM = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>hfgpt</title>
<style>body{font-family:system-ui,sans-serif;max-width:24rem;margin:20vh auto;padding:0 1rem}
input,button{font:inherit;padding:.5rem;width:100%;box-sizing:border-box;margin-top:.5rem}</style></head>
<body><form method="post" action="/enter"><label for="token">SENTENCE</label>
<input id="token" name="token" type="password" autocomplete="current-password" autofocus required>
<button>Enter</button></form></body></html>
"""


class Gate:
    """ASGI middleware: 401 without the token, where there is one, else 403 for requests to another name than this
    computer's; 404 for other addresses, 413 for a body over `max_body_bytes`, 411 for one of unknown size.

    A program sends the token as `Authorization: Bearer TOKEN`; a browser is shown a form for it, and then keeps a
    cookie that ends with this server.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, token: str | None = None) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.token = token
        self.cookie = secrets.token_urlsafe()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: ASGIApp = self.app
        if scope["type"] == "http":
            request = Request(scope, receive)
            if self.token is not None and not self._may_enter(request, self.token):
                answer = await self._at_the_door(request, self.token)
            else:
                answer = self._refusal(request) or self.app
        await answer(scope, receive, send)

    def _may_enter(self, request: Request, token: str) -> bool:
        return (
            is_token(bearer_of(request.headers.get("authorization", "")), token)
            or is_token(request.cookies.get(COOKIE, ""), self.cookie)
            or request.scope["path"] == STARTED
        )

    async def _at_the_door(self, request: Request, token: str) -> Response:
        """The form, what comes of it, and a refusal of all else."""
        path, method = request.scope["path"], request.method
        if path == ENTRANCE and method == "POST":
            if not is_token(await _form_field(request, "token"), token):
                return _form("That is not the token of this server:")
            entered = RedirectResponse("/", status_code=303)
            entered.set_cookie(COOKIE, self.cookie, httponly=True, samesite="strict")
            return entered
        if path == "/" and method == "GET":
            return _form("The token of this server:")
        challenge = {"WWW-Authenticate": "Bearer"}
        return PlainTextResponse("Send this server's token, as Authorization: Bearer TOKEN.", 401, challenge)

    def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that the page is not asked for; None for one that it is."""
        if self.token is None and not is_sent_to_this_computer(request.headers.get("host", "")):
            return PlainTextResponse("This server answers requests to localhost only.", 403)
        path, method = request.scope["path"], request.method
        call = path.removeprefix(API).rstrip("/") if path.startswith(API) else None
        if method in ("GET", "HEAD"):
            known = path in PAGES or path.startswith(("/assets/", "/static/")) or call in CALLS
            known = known or (call is not None and call.startswith("heartbeat/"))
            return None if known else PlainTextResponse("There is nothing here.", 404)
        if method == "OPTIONS":
            return None
        if method != "POST" or call not in CHANGES:
            return PlainTextResponse("There is nothing here.", 404)
        length = request.headers.get("content-length", "")
        if not length.isdigit():
            return PlainTextResponse("Say how long the request is (Content-Length).", 411)
        if int(length) > self.max_body_bytes:
            sentence = f"The request has {int(length):,} bytes; at most {self.max_body_bytes:,} are read."
            return PlainTextResponse(sentence, 413)
        return None


def _form(sentence: str) -> Response:
    return HTMLResponse(FORM.replace("SENTENCE", html.escape(sentence)), 401)


async def _form_field(request: Request, name: str) -> str:
    """A field of a form that a browser sends; empty where it is not there, or the form is too large."""
    length = request.headers.get("content-length", "")
    if not length.isdigit() or int(length) > MAX_FORM_BYTES:
        return ""
    content = (await request.body()).decode("latin-1")
    return parse_qs(content).get(name, [""])[0].strip()
