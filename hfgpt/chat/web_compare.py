"""The comparison tab: one prompt, two models, their answers growing side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from hfgpt.chat.web_answers import as_text, in_turn, progress
from hfgpt.chat.web_chat import ENGINE
from hfgpt.chat.web_models import Models
from hfgpt.chat.web_settings import Settings, shown, transcript, visible
from hfgpt.errors import UserError

SIDES = ("left", "right")


class CompareTab:
    """Components of the tab, built where it is made; `connect` gives them their events."""

    def __init__(self, models: Models, chosen: str) -> None:
        self.models = models
        others = [name for name in models.names if name != chosen] or [chosen]
        self.picked: list[gr.Dropdown] = []
        self.transcripts: list[gr.Chatbot] = []
        self.figures: list[gr.HTML] = []
        with gr.Row(elem_classes="ask"):
            self.prompt = gr.Textbox(
                show_label=False,
                label="Prompt",
                placeholder="The same prompt to both …",
                lines=1,
                max_lines=8,
                container=False,
                scale=6,
                min_width=200,
                elem_id="compare-prompt",
            )
            self.send = gr.Button("Compare", variant="primary", scale=1, min_width=72, elem_id="compare-send")
            self.stop = gr.Button("Stop", scale=1, min_width=72, elem_id="compare-stop")
        with gr.Row():
            for side, name in zip(SIDES, (others[0], chosen), strict=True):
                with gr.Column(min_width=260):
                    self.picked.append(
                        gr.Dropdown(
                            models.names,
                            value=name,
                            show_label=False,
                            label=f"Model on the {side}",
                            elem_id=f"model-{side}",
                            elem_classes="picker",
                            filterable=False,
                            interactive=True,
                        )
                    )
                    self.transcripts.append(transcript(f"Answer on the {side}", f"answer-{side}", "No answer yet"))
                    self.figures.append(
                        gr.HTML("", label=f"Figures on the {side}", elem_id=f"figures-{side}", elem_classes="figures")
                    )

    def connect(self, settings: Settings) -> None:
        """Events: answer, stop."""

        def compare(prompt: str | None, left: str, right: str, **values: Any) -> Iterator[dict]:
            names = (left, right)
            asked = [{"role": "user", "content": prompt or ""}]
            try:
                question = settings.question(asked, values)
                engines = [self.models[name] for name in names]
                conversations, figures = [asked, asked], ["…", "…"]
                yield self._shown(conversations, figures)
                for side, update in in_turn([progress(engine, question) for engine in engines]):
                    kind = "" if engines[side].is_chat else " · base model, continues the text"
                    conversations[side] = [*asked, {"role": "assistant", "content": update.text}]
                    figures[side] = f"{names[side]}{kind} · {update.figures}"
                    yield self._shown(conversations, figures)
            except UserError as error:
                raise visible(error) from None

        answering = gr.on(
            [self.send.click, self.prompt.submit],
            compare,
            inputs=[self.prompt, *self.picked],
            inputs_kwargs=settings.controls,
            outputs=[*self.transcripts, *self.figures],
            api_name="compare",
            show_progress="hidden",
            concurrency_id=ENGINE,
            concurrency_limit=1,
        )
        self.stop.click(None, cancels=[answering])

    def _shown(self, conversations: list[list[dict]], figures: list[str]) -> dict:
        """Both sides whole, every time: a program that asks gets the last update only."""
        return dict(zip(self.transcripts, map(shown, conversations), strict=True)) | dict(
            zip(self.figures, map(as_text, figures), strict=True)
        )
