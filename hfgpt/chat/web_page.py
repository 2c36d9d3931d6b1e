"""The page as a whole: its tabs, its panel of settings, its looks, and how it is put on the network."""

from __future__ import annotations

import os
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from hfgpt.chat.web_answers import as_text
from hfgpt.chat.web_chat import ChatTab
from hfgpt.chat.web_compare import CompareTab
from hfgpt.chat.web_gate import Gate
from hfgpt.chat.web_models import Models
from hfgpt.chat.web_settings import Defaults, Settings
from hfgpt.errors import UserError

STYLE = Path(__file__).with_name("web.css")
MAX_SESSIONS = 200  # visitors whose conversations are kept
# Fonts that the visitor's computer has: nothing is fetched from outside.
FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONOSPACE = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def build_page(models: Models, chosen: str, defaults: Defaults, title: str) -> gr.Blocks:
    """The page over `models`, of which `chosen` is picked at first. Raises UserError if that one does not load."""
    with gr.Blocks(title=f"{title} · hfgpt", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(f"<h1>{as_text(title)}</h1>", elem_id="header")
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=3, min_width=320, elem_id="main"), gr.Tabs():
                with gr.Tab("Chat", id="chat"):
                    chat = ChatTab(models, chosen)
                with gr.Tab("Compare", id="compare", elem_id="compare", visible=len(models.names) > 1):
                    compare = CompareTab(models, chosen)
            with gr.Column(scale=1, min_width=260, elem_id="settings"):
                settings = Settings(defaults)
        gr.HTML(
            f"Answers come from a language model and may be wrong. A message may have "
            f"{defaults.max_prompt_chars:,} characters.",
            elem_id="footer",
        )
        chat.connect(settings)
        compare.connect(settings)
    return page


def launch_page(
    page: gr.Blocks, host: str, port: int, queue_size: int, max_prompt_chars: int, token: str | None = None
) -> str:
    """Serve the page in threads of their own, to who has the `token` if there is one; returns its address. At most
    `queue_size` visitors wait for an answer.

    Settings of gradio's that could come from the environment are given here, so that none opens what should be shut.
    Raises UserError for an address that cannot be had.
    """
    page.queue(max_size=queue_size, api_open=False)
    # Message and system prompt, of up to 12 bytes a character in JSON, and the controls; a refusal by gradio or by
    # the page itself is friendlier, so that somewhat longer texts still come through.
    max_body_bytes = 4 * 12 * max_prompt_chars + 65536
    # gradio asks its own server whether it is up; no proxy knows of that server.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "localhost", host)))
    try:
        _, address, _ = page.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            theme=gr.themes.Base(primary_hue="indigo", neutral_hue="slate", font=FONT, font_mono=MONOSPACE),
            css_paths=STYLE,
            footer_links=[],
            run_history=False,
            allowed_paths=[],
            enable_monitoring=False,
            mcp_server=False,
            ssr_mode=False,
            pwa=False,
            state_session_capacity=MAX_SESSIONS,
            app_kwargs={"middleware": [Middleware(Gate, max_body_bytes=max_body_bytes, token=token)]},
        )
    except OSError:
        raise UserError(f"cannot listen on {host}, port {port}: choose others by --host, --port.") from None
    return address
