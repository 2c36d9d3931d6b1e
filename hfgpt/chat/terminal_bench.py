"""`/bench`: a fixed set of prompts answered, with the speed, the wait for the first token and the memory it took."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Iterator

import torch
from rich.table import Table
from rich.text import Text

from hfgpt.chat.engine import Engine
from hfgpt.chat.sampling import Sampling
from hfgpt.chat.terminal_screen import printable
from hfgpt.chat.terminal_session import Conversation, Reply, Settings

MAX_NEW_TOKENS = 64
QUESTIONS = (
    "What is your name?",
    "Count to ten.",
    "Why is the sky blue?",
    "What is 12 + 30?",
    "Write two sentences about the sea.",
)
BEGINNINGS = (
    "The capital of France is",
    "One, two, three,",
    "The sky is blue because",
    "12 + 30 =",
    "The old man looked at the sea and",
)


def bench(engine: Engine) -> Iterator[tuple[str, Reply]]:
    """Each prompt and its finished reply, in a conversation of its own, greedily and at most 64 tokens long; one
    reply before them, which may compile or allocate, is not counted."""
    if engine.model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(engine.model.device)
    settings = Settings(Sampling(temperature=0.0, max_new_tokens=MAX_NEW_TOKENS))
    prompts = QUESTIONS if engine.is_chat else BEGINNINGS
    for count, prompt in enumerate((prompts[0], *prompts)):
        reply = Conversation(engine, settings).ask(prompt)
        for _ in reply:
            pass
        if count:
            yield prompt, reply


def bench_table(name: str, results: Iterable[tuple[str, Reply]], memory: str) -> Table:
    """The replies as a table, their median in the last row; `memory` stands below."""
    table = Table(title=Text(printable(name), style="bold"), caption=memory, caption_justify="left", show_edge=False)
    table.add_column("prompt", max_width=36)
    table.add_column("answer", max_width=60)
    for heading in ("tokens", "first token", "tokens/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    results = list(results)
    for prompt, reply in results:
        table.add_row(_one_line(prompt), _one_line(reply.text), *_figures(reply))
    if results:
        table.add_section()
        replies = [reply for _, reply in results]
        speeds = [reply.tokens_per_second for reply in replies if reply.tokens_per_second is not None]
        table.add_row(
            "median",
            "",
            f"{statistics.median(reply.num_tokens for reply in replies):g}",
            f"{1e3 * statistics.median(reply.seconds_to_first_token for reply in replies):,.0f} ms",
            f"{statistics.median(speeds):,.0f}" if speeds else "",
        )
    return table


def _one_line(text: str) -> Text:
    return Text(" ".join(printable(text).split()), no_wrap=True, overflow="ellipsis")


def _figures(reply: Reply) -> tuple[str, str, str]:
    speed = reply.tokens_per_second
    first = f"{1e3 * reply.seconds_to_first_token:,.0f} ms"
    return f"{reply.num_tokens}", first, "" if speed is None else f"{speed:,.0f}"


def peak_memory(engine: Engine) -> str:
    """The most memory that was held: of the GPU since the bench began, else of this process since it began."""
    device = engine.model.device
    if device.type == "cuda":
        return f"peak memory {torch.cuda.max_memory_allocated(device) / 1e9:,.2f} GB on the GPU"
    if sys.platform == "win32":
        return ""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"peak memory {peak / 1e9:,.2f} GB (the whole process)"
