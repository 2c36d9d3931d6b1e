"""The page's panel of settings, shared by its tabs, and what it says turned into a question for a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from hfgpt.chat.sampling import Sampling
from hfgpt.chat.web_answers import Question, as_text, check_text
from hfgpt.errors import UserError

MOST_NEW_TOKENS = 2048
MOST_ANSWERS = 8  # of best of n: each costs as much as an answer


@dataclass(frozen=True)
class Defaults:
    """What the controls show at first, and how many characters of a message or a system prompt are read."""

    sampling: Sampling
    system: str = ""
    calculator: bool = False
    best_of: int = 1
    max_prompt_chars: int = 4000


class Settings:
    """The controls, built where it is made. `controls` names them for gradio's `inputs_kwargs`."""

    def __init__(self, defaults: Defaults) -> None:
        self.max_prompt_chars = defaults.max_prompt_chars
        gr.HTML("<h2>Settings</h2>")
        sampling = defaults.sampling
        system = gr.Textbox(
            defaults.system, label="System prompt", lines=2, max_lines=6, placeholder="none", elem_id="system"
        )
        temperature = _slider("Temperature", "0: always the likeliest token", 0, 2, sampling.temperature)
        max_new_tokens = _slider(
            "Longest answer", "in tokens", 1, MOST_NEW_TOKENS, sampling.max_new_tokens, whole=True
        )
        calculator = gr.Checkbox(defaults.calculator, label="Calculator", info="the model may call it")
        with gr.Accordion("More", open=False, elem_id="more"):
            top_k = _slider("Top-k", "0: all tokens", 0, 200, sampling.top_k or 0, whole=True)
            top_p = _slider("Top-p", "1: all tokens", 0.05, 1, sampling.top_p or 1.0)
            repetition_penalty = _slider("Repetition penalty", "1: none", 1, 2, sampling.repetition_penalty)
            best_of = _slider("Best of", "1: shown as it is written", 1, MOST_ANSWERS, defaults.best_of, whole=True)
            # Not a gr.Number, whose empty field is 0: the same answer each time.
            seed = gr.Textbox(
                "" if sampling.seed is None else str(sampling.seed),
                label="Seed",
                placeholder="none: another answer each time",
                elem_id="seed",
            )
        self.controls: dict[str, gr.components.Component] = {
            "system": system,
            "temperature": temperature,
            "max_new_tokens": max_new_tokens,
            "calculator": calculator,
            "top_k": top_k,
            "top_p": top_p,
            "repetition_penalty": repetition_penalty,
            "best_of": best_of,
            "seed": seed,
        }

    def question(self, messages: list[dict], values: dict[str, Any]) -> Question:
        """The question that these values of the controls make of `messages`. Raises UserError for nonsense."""
        check_text("The message", messages[-1]["content"], self.max_prompt_chars)
        check_text("The system prompt", values["system"] or "", self.max_prompt_chars)
        if not messages[-1]["content"].strip():
            raise UserError("The message is empty: write something.")
        sampling = Sampling(
            temperature=values["temperature"],
            top_k=values["top_k"] or None,
            top_p=None if values["top_p"] == 1 else values["top_p"],
            repetition_penalty=values["repetition_penalty"],
            max_new_tokens=values["max_new_tokens"],
            seed=_seed(values["seed"]),
        )
        return Question(messages, sampling, values["system"] or "", bool(values["calculator"]), values["best_of"])


def _slider(label: str, info: str, least: float, most: float, value: float, whole: bool = False) -> gr.Slider:
    """A slider from `least` to `most`, or further where the command line asked for more: gradio refuses the rest."""
    precision, step = (0, 1) if whole else (None, 0.05)
    return gr.Slider(
        min(least, value), max(most, value), value, step=step, precision=precision, label=label, info=info
    )


def _seed(typed: str | None) -> int | None:
    typed = (typed or "").strip()
    if len(typed) > 19 or not (typed.isascii() and typed.isdigit() or not typed):
        raise UserError("The seed must be a whole number from 0 to 2^63 - 1, or empty.")
    return int(typed) if typed else None


def visible(error: UserError) -> gr.Error:
    """The error as the page shows it: in a corner, as text, without a traceback in the server's log."""
    return gr.Error(as_text(str(error)), duration=8, print_exception=False)


def transcript(label: str, elem_id: str, placeholder: str) -> gr.Chatbot:
    """A conversation shown as text, with no Markdown, HTML or LaTeX. Even so gradio's page sets each message as
    innerHTML, sanitized: only `shown` makes it be seen letter by letter."""
    return gr.Chatbot(
        label=label,
        show_label=False,
        elem_id=elem_id,
        elem_classes="transcript",
        placeholder=placeholder,
        height=None,
        render_markdown=False,
        sanitize_html=True,
        allow_tags=False,
        latex_delimiters=[],
        buttons=[],
        feedback_options=None,
        allow_file_downloads=False,
        layout="bubble",
    )


def shown(messages: list[dict]) -> list[dict[str, Any]]:
    """Messages as a transcript takes them. As a part of type text, since gradio strips and dedents a bare string."""
    return [
        {"role": message["role"], "content": [{"type": "text", "text": as_text(message["content"])}]}
        for message in messages
    ]
