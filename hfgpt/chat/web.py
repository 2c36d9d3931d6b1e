"""`hfgpt web DIR`: talk to a model in the browser, and compare two side by side.

hfgpt web runs/tiny                                # a picker over the run's complete stages, the latest one first
hfgpt web runs/tiny/sft --compare gpt2             # further models to pick from: folders, runs or Hub ids
hfgpt web runs/tiny --host 0.0.0.0 --token_file F  # for others too, who must know the token in F

The page is served on this computer alone unless --host says otherwise, and asks nothing of the internet.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec

from hfgpt.chat.access import add_access, token_of
from hfgpt.chat.address import bound_socket
from hfgpt.chat.arguments import add_model, add_sampling, load_engine, parser, sampling_of
from hfgpt.errors import UserError

PORT = 7860
MAX_PROMPT_CHARS = 4000
QUEUE_SIZE = 16


def main(argv: list[str] | None = None) -> int:
    """The command: serves until Ctrl-C. Raises UserError for arguments, a model or an address that cannot be used."""
    args = parse_args(argv)
    token = token_of(args)
    sampling = sampling_of(args)  # refused before anything heavy is loaded
    if find_spec("gradio") is None:
        raise UserError("the web page needs gradio, which is not installed: pip install hfgpt[web]")
    with bound_socket(args.host, args.port) as bound:
        port = bound.getsockname()[1]  # free now; gradio binds it itself
    from hfgpt.chat.web_models import Models, offered_models, short_name

    offered = offered_models([args.model, *args.compare])
    from hfgpt.chat.web_page import build_page, launch_page
    from hfgpt.chat.web_settings import Defaults

    models = Models(offered, load=lambda location: load_engine(args, location), kept=args.models_in_memory)
    own = list(offered_models([args.model]).values())
    chosen = next(name for name, location in offered.items() if location == own[-1])
    print(f"Loading {chosen} ...", flush=True)
    defaults = Defaults(
        sampling,
        system=args.system,
        calculator=args.calculator,
        best_of=args.best,
        max_prompt_chars=args.max_prompt_chars,
    )
    page = build_page(models, chosen, defaults, title=short_name(args.model))
    limits = {"queue_size": args.queue_size, "max_prompt_chars": args.max_prompt_chars}
    url = launch_page(page, args.host, port, **limits, token=token)
    print(f"Open {url} in a browser; Ctrl-C ends.", flush=True)
    page.block_thread()
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line. Raises UserError for a number that makes no sense."""
    flags = parser("hfgpt web", __doc__ or "")
    add_model(flags)
    flags.add_argument("--compare", nargs="+", default=[], metavar="MODEL", help="further models to pick from")
    add_access(flags, PORT)
    page = flags.add_argument_group("page")
    page.add_argument("--system", default="", help="what the model is told before the conversation")
    page.add_argument("--best", type=int, default=1, metavar="N", help="generate N answers and show the likeliest")
    page.add_argument("--calculator", action="store_true", help="let the model call a calculator")
    limits = flags.add_argument_group("limits")
    for name, default, text in (
        ("max_prompt_chars", MAX_PROMPT_CHARS, "longest message that is read, in characters"),
        ("queue_size", QUEUE_SIZE, "visitors who may wait while one is answered"),
        ("models_in_memory", 2, "models that stay loaded"),
    ):
        limits.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default: {default})")
    add_sampling(flags)
    args = flags.parse_args(sys.argv[1:] if argv is None else argv)
    for name in ("best", "max_prompt_chars", "queue_size", "models_in_memory"):
        if vars(args)[name] < 1:
            raise UserError(f"--{name} must be at least 1, not {vars(args)[name]}.")
    return args
