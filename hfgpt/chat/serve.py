"""`hfgpt serve DIR`: a model behind OpenAI's API.

hfgpt serve runs/tiny                                # the latest complete stage of a run, at http://127.0.0.1:8000/v1
hfgpt serve runs/tiny/pretrain                       # a base model: /v1/completions only
hfgpt serve runs/d20 --host 0.0.0.0 --api_key KEY    # for other machines, which must send the key

The sampling flags hold where a request does not say. Ctrl-C ends. Exit code 2 and one sentence for what is yours to
mend.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import re
import shlex
import signal
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hfgpt.chat.address import bound_socket, is_loopback
from hfgpt.chat.arguments import add_model, add_sampling, load_engine, model_name, parser, sampling_of
from hfgpt.errors import UserError

if TYPE_CHECKING:
    from hfgpt.chat.engine import Engine
    from hfgpt.chat.sampling import Sampling

NEEDED = ("fastapi", "openai", "uvicorn")  # by transformers' serving
PORT = 8000


def main(argv: list[str] | None = None) -> int:
    """The command: serves until Ctrl-C or SIGTERM. Raises UserError for arguments, a model or an address that cannot
    be used."""
    args = parse_args(argv)
    sampling = sampling_of(args)  # refused before anything heavy is loaded
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"hfgpt serve needs {', '.join(missing)}, not installed here: pip install hfgpt[serve]")
    location = model_name(args.model)
    name = args.name or _short_name(location)
    with bound_socket(args.host, args.port) as bound:
        print(f"Loading {name} ...", flush=True)
        engine = load_engine(args, location)
        serve(engine, name, sampling, bound, args)
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line. Raises UserError for what makes no sense or would open the model to everyone."""
    flags = parser("hfgpt serve", __doc__ or "")
    add_model(flags)
    server = flags.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this computer)")
    server.add_argument("--port", type=int, default=PORT, help=f"port to listen on; 0: any free one (default: {PORT})")
    server.add_argument("--api_key", metavar="KEY", help="what each request must send, as Authorization: Bearer KEY")
    server.add_argument("--name", help="what requests call the model (default: the end of its path)")
    server.add_argument("--max_active", type=int, default=8, help="answers generated at a time (default: 8)")
    server.add_argument("--calculator", action="store_true", help="let the model call a calculator")
    add_sampling(flags)
    args = flags.parse_args(sys.argv[1:] if argv is None else argv)
    if args.max_active < 1:
        raise UserError(f"--max_active must be at least 1, not {args.max_active}.")
    if args.api_key is not None and not re.fullmatch(r"[!-~]+", args.api_key):
        raise UserError("--api_key must be of printable ASCII characters without spaces.")
    if args.api_key is None and not is_loopback(args.host):
        raise UserError(f"--host {args.host} is open to the network: protect the model with --api_key KEY.")
    return args


def serve(engine: Engine, name: str, sampling: Sampling, bound: socket.socket, args: argparse.Namespace) -> None:
    """Serve until a signal to stop; answers that are under way then end with an error."""
    import uvicorn

    from hfgpt.chat.serve_answers import Rotation
    from hfgpt.chat.serve_app import build_app
    from hfgpt.chat.serve_handlers import Chat, Completions, EngineGeneration, EngineState

    generation = EngineGeneration(engine, Rotation(args.max_active))
    state = EngineState(generation)
    chat = Chat(engine, name, state, sampling, calculator=args.calculator)
    completions = Completions(engine, name, state, sampling)
    app = build_app(name, chat.handle_request, completions.handle_request, args.api_key)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(_welcome(args.host, bound.getsockname()[1], name, engine.is_chat, args.api_key), flush=True)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await asyncio.to_thread(generation.stop)
            await super().shutdown(sockets)

    config = uvicorn.Config(app, lifespan="off", timeout_graceful_shutdown=2)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    # uvicorn stops at these signals, then raises them again for whoever handled them before.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    Server(config).run([bound])


def _short_name(location: str) -> str:
    """The last two folders of a path (tiny/sft), or a Hub id as it is."""
    folder = Path(location)
    return "/".join(folder.resolve().parts[-2:]) if folder.is_dir() else location


def _welcome(host: str, port: int, name: str, is_chat: bool, api_key: str | None) -> str:
    """Where the server is, and how to ask it."""
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}/v1"
    header = "" if api_key is None else " -H 'Authorization: Bearer KEY'"
    key = "not needed" if api_key is None else "KEY"
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
