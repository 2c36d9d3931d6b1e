"""`hfgpt serve DIR`: a model behind OpenAI's API.

hfgpt serve runs/tiny                                # the latest complete stage of a run, at http://127.0.0.1:8000/v1
hfgpt serve runs/tiny/pretrain                       # a base model: /v1/completions only
hfgpt serve runs/d20 --host 0.0.0.0 --token_file F   # for other machines, which must send the token in F

The sampling flags hold where a request does not say. Ctrl-C ends. Exit code 2 and one sentence for what is yours to
mend.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import shlex
import signal
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hfgpt.chat.access import add_access, token_of
from hfgpt.chat.address import bound_socket
from hfgpt.chat.arguments import add_model, add_sampling, load_engine, model_name, parser, sampling_of
from hfgpt.errors import UserError

if TYPE_CHECKING:
    from hfgpt.chat.engine import Engine
    from hfgpt.chat.sampling import Sampling

NEEDED = ("fastapi", "openai", "uvicorn")  # by transformers' serving
PORT = 8000
SEND_SECONDS = 60  # in which a client must have taken what was sent to it


def main(argv: list[str] | None = None, send_seconds: float = SEND_SECONDS) -> int:
    """The command: serves until Ctrl-C or SIGTERM. A client must take what is sent to it within `send_seconds`.

    Raises UserError for arguments, a model or an address that cannot be used.
    """
    args = parse_args(argv)
    token = token_of(args)
    sampling = sampling_of(args)  # refused before anything heavy is loaded
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"hfgpt serve needs {', '.join(missing)}, not installed here: pip install hfgpt[serve]")
    location = model_name(args.model)
    name = args.name or _short_name(location)
    with bound_socket(args.host, args.port) as bound:
        print(f"Loading {name} ...", flush=True)
        engine = load_engine(args, location)
        serve(engine, name, sampling, bound, args, token, send_seconds)
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line. Raises UserError for what makes no sense."""
    flags = parser("hfgpt serve", __doc__ or "")
    add_model(flags)
    server = add_access(flags, PORT)
    server.add_argument("--name", help="what requests call the model (default: the end of its path)")
    server.add_argument("--max_active", type=int, default=8, help="answers generated at a time (default: 8)")
    server.add_argument("--calculator", action="store_true", help="let the model call a calculator")
    add_sampling(flags)
    args = flags.parse_args(sys.argv[1:] if argv is None else argv)
    if args.max_active < 1:
        raise UserError(f"--max_active must be at least 1, not {args.max_active}.")
    return args


def serve(
    engine: Engine,
    name: str,
    sampling: Sampling,
    bound: socket.socket,
    args: argparse.Namespace,
    token: str | None,
    send_seconds: float,
) -> None:
    """Serve until a signal to stop; answers that are under way then end with an error."""
    import uvicorn

    from hfgpt.chat.serve_answers import Rotation
    from hfgpt.chat.serve_app import build_app
    from hfgpt.chat.serve_connection import connection_class
    from hfgpt.chat.serve_handlers import Chat, Completions, EngineGeneration, EngineState

    generation = EngineGeneration(engine, Rotation(args.max_active))
    state = EngineState(generation)
    chat = Chat(engine, name, state, sampling, calculator=args.calculator)
    completions = Completions(engine, name, state, sampling)
    app = build_app(name, chat.handle_request, completions.handle_request, generation.rotation.load, token)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(_welcome(args.host, bound.getsockname()[1], name, engine.is_chat, token is not None), flush=True)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await asyncio.to_thread(generation.stop)
            await super().shutdown(sockets)

    config = uvicorn.Config(app, http=connection_class(send_seconds), lifespan="off", timeout_graceful_shutdown=2)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").addFilter(_without_query)
    # uvicorn stops at these signals, then raises them again for whoever handled them before.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    # Else the collector walks over all that torch and transformers made, again and again: a request of 1 MiB, full of
    # small lists, took 0.9 s to read, and takes 0.2 s so (2 slow cores).
    gc.collect()
    gc.freeze()
    Server(config).run([bound])


def _without_query(record: logging.LogRecord) -> bool:
    """Cuts an address in the log of requests before its `?`, where a client may have put its token by mistake."""
    if isinstance(record.args, tuple) and len(record.args) == 5:
        client, method, address, http_version, status = record.args
        record.args = client, method, str(address).partition("?")[0], http_version, status
    return True


def _short_name(location: str) -> str:
    """The last two folders of a path (tiny/sft), or a Hub id as it is."""
    folder = Path(location)
    return "/".join(folder.resolve().parts[-2:]) if folder.is_dir() else location


def _welcome(host: str, port: int, name: str, is_chat: bool, needs_token: bool) -> str:
    """Where the server is, and how to ask it."""
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}/v1"
    header = " -H 'Authorization: Bearer TOKEN'" if needs_token else ""
    key = "TOKEN" if needs_token else "not needed"
    if is_chat:
        path, text = "chat/completions", "answer.choices[0].message.content"
        field, value = "messages", json.dumps([{"role": "user", "content": "Who are you?"}])
    else:
        path, text = "completions", "answer.choices[0].text"
        field, value = "prompt", json.dumps("Once upon a time")
    model = json.dumps(name)
    body = shlex.quote(f'{{"model": {model}, "{field}": {value}}}')
    return f"""Serving {name} at {url} (Ctrl-C ends)

curl {url}/{path} -H 'Content-Type: application/json'{header} \\
  -d {body}

from openai import OpenAI
client = OpenAI(base_url="{url}", api_key="{key}")
answer = client.{path.replace("/", ".")}.create(model={model}, {field}={value})
print({text})
"""
