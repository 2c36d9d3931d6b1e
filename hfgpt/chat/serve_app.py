"""The server's addresses, and what a request must be before anything is done for it: from an allowed address, with the
token, small enough, and JSON. Errors are worded as OpenAI's."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hfgpt.chat.access import bearer_of, is_sent_to_this_computer, is_token
from hfgpt.chat.serve_requests import RequestError, parsed
from hfgpt.errors import UserError

MAX_BODY_BYTES = 1 << 20
BODY_SECONDS = 60  # in which a request must have arrived whole
MAX_REQUESTS = 1024  # open at a time, each with up to MAX_BODY_BYTES until it is read
RETRY_SECONDS = 2  # when to ask again, in answers 429 and 503

Handle = Callable[[dict, str, str], Awaitable[Any]]


def build_app(
    name: str, chat: Handle, complete: Handle, load: Callable[[], dict[str, int]], token: str | None
) -> ASGIApp:
    """The ASGI application that serves the model `name` by two handlers of requests (JSON object, request's id,
    client's address); `load` says how much there is to do."""
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

    async def current_load(request: Request) -> Response:
        return JSONResponse(load())

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", one_model),
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/load", current_load),
            Route("/health", health),
        ],
        middleware=[Middleware(Door, token=token)],
        exception_handlers={
            RequestError: _refused,
            UserError: _not_possible,
            HTTPException: _not_found,
            ClientDisconnect: _gone,
            Exception: _broken,
        },
    )


class Door:
    """Lets in the requests that have the token, or, where there is none, those sent to this computer by its own name;
    and no more at a time than MAX_REQUESTS."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app = app
        self.token = token
        self.num_inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._refusal(scope) if scope["type"] == "http" else None
        self.num_inside += 1
        # When uvicorn stops it cancels what does not end in time, and would print the traceback of that.
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await (self.app if error is None else _response(error))(scope, receive, send)
        finally:
            self.num_inside -= 1

    def _refusal(self, scope: Scope) -> RequestError | None:
        if self.num_inside >= MAX_REQUESTS:
            return RequestError("The server is overloaded; try again later.", status=503, code="overloaded")
        headers = Headers(scope=scope)
        if self.token is None:
            if is_sent_to_this_computer(headers.get("host", "")):
                return None
            return RequestError("This server answers requests to localhost only.", status=403)
        if scope["path"] == "/health" or is_token(bearer_of(headers.get("authorization", "")), self.token):
            return None
        return RequestError(
            "A valid token must be sent, as Authorization: Bearer TOKEN.", status=401, code="invalid_api_key"
        )


async def _answer(request: Request, handle: Handle, request_id: str) -> Response:
    """What `handle` makes of the request, unless its client goes away before."""
    client = request.client.host if request.client else ""
    work = asyncio.ensure_future(handle(parsed(await _content(request)), request_id, client))
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
    headers = {401: {"WWW-Authenticate": "Bearer"}}
    headers |= dict.fromkeys((429, 503), {"Retry-After": str(RETRY_SECONDS)})
    return JSONResponse(error.as_json(), error.status, headers.get(error.status))


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
