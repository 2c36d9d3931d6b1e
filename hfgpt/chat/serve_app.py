"""The server's addresses, and what a request must be before anything is done for it: from an allowed address, with the
key, small enough, and JSON. Errors are worded as OpenAI's."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hfgpt.chat.address import is_loopback
from hfgpt.chat.serve_requests import RequestError, parsed
from hfgpt.errors import UserError

MAX_BODY_BYTES = 1 << 20
BODY_SECONDS = 60  # in which a request must have arrived whole

Handle = Callable[[dict, str], Awaitable[Any]]


def build_app(name: str, chat: Handle, complete: Handle, api_key: str | None) -> ASGIApp:
    """The ASGI application that serves the model `name` by two handlers of requests (JSON object, request's id)."""
    model = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "hfgpt"}

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model]})

    async def one_model(request: Request) -> Response:
        asked = request.path_params["name"]
        if asked != name:
            raise RequestError(f"The model {asked} is not served here; {name} is.", status=404, code="model_not_found")
        return JSONResponse(model)

    async def chat_completions(request: Request) -> Response:
        return await _answer(request, chat, f"chatcmpl-{uuid.uuid4().hex}")

    async def completions(request: Request) -> Response:
        return await _answer(request, complete, f"cmpl-{uuid.uuid4().hex}")

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", one_model),
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/health", health),
        ],
        middleware=[Middleware(Door, api_key=api_key)],
        exception_handlers={
            RequestError: _refused,
            UserError: _not_possible,
            HTTPException: _not_found,
            ClientDisconnect: _gone,
            Exception: _broken,
        },
    )


class Door:
    """Lets in the requests that have the key; where there is none, those sent to this computer by its own name: a
    web page that somebody visits can make another name lead here."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self.app = app
        self.api_key = api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._refusal(scope) if scope["type"] == "http" else None
        # When uvicorn stops it cancels what does not end in time, and would print the traceback of that.
        with contextlib.suppress(asyncio.CancelledError):
            await (self.app if error is None else _response(error))(scope, receive, send)

    def _refusal(self, scope: Scope) -> RequestError | None:
        headers = Headers(scope=scope)
        if self.api_key is None:
            if is_loopback(_host_of(headers.get("host", ""))):
                return None
            return RequestError("This server answers requests to localhost only.", status=403)
        kind, _, key = headers.get("authorization", "").partition(" ")
        if scope["path"] == "/health" or (
            kind.lower() == "bearer" and secrets.compare_digest(key.strip().encode(), self.api_key.encode())
        ):
            return None
        return RequestError(
            "A valid API key must be sent, as Authorization: Bearer KEY.", status=401, code="invalid_api_key"
        )


def _host_of(address: str) -> str:
    try:
        return urlsplit(f"//{address}").hostname or ""
    except ValueError:
        return ""


async def _answer(request: Request, handle: Handle, request_id: str) -> Response:
    """What `handle` makes of the request, unless its client goes away before."""
    body = parsed(await _content(request))
    work = asyncio.ensure_future(handle(body, request_id))
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        work.cancel()
        gone.cancel()


async def _content(request: Request) -> bytes:
    """The body. Raises RequestError if it is no JSON by its header, too large, or too slow in coming."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError("The request must have the header Content-Type: application/json.", status=415)
    too_large = RequestError(f"The request has more than {MAX_BODY_BYTES:,} bytes.", status=413)
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > MAX_BODY_BYTES:
        raise too_large
    content = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                content += chunk
                if len(content) > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError:
        raise RequestError(f"The request did not arrive within {BODY_SECONDS} seconds.", status=408) from None
    return bytes(content)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _response(error: RequestError) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
    return JSONResponse(error.as_json(), error.status, headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _response(error)


async def _not_possible(request: Request, error: Exception) -> Response:
    return _response(RequestError(str(error)))


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # as nginx logs it; nobody reads it


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"There is nothing at {request.method} {request.url.path}."
    return _response(RequestError(message, status=error.status_code, code="not_found"))


async def _broken(request: Request, error: Exception) -> Response:
    return _response(RequestError("The server failed to answer this request.", status=500))
