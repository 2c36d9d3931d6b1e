"""The chat tab: one conversation with one model, kept on the server for as long as the visitor's session lasts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from hfgpt.chat.web_answers import MAX_MESSAGES, as_text, progress
from hfgpt.chat.web_models import Models
from hfgpt.chat.web_settings import Settings, shown, transcript, visible
from hfgpt.errors import UserError

if TYPE_CHECKING:
    from hfgpt.chat.engine import Engine

ENGINE = "engine"  # events of this name wait for each other: one answer at a time
HOURS_KEPT = 2
CHAT_HINT = "Write a message …"
BASE_HINT = "Write the beginning of a text …"
BASE_NOTE = (
    "This is a base model: it continues your text, and knows no questions, turns or system prompts. "
    "It sees your last message only."
)


class ChatTab:
    """Components of the tab, built where it is made; `connect` gives them their events."""

    def __init__(self, models: Models, chosen: str) -> None:
        self.models = models
        engine = models[chosen]
        self.model = gr.Dropdown(
            models.names,
            value=chosen,
            show_label=False,
            label="Model",
            elem_id="model",
            elem_classes="picker",
            filterable=False,
            interactive=True,
        )
        self.note = gr.HTML(as_text(BASE_NOTE), visible=not engine.is_chat, elem_id="note", elem_classes="note")
        self.transcript = transcript("Conversation", "conversation", "Nothing said yet.")
        self.messages = gr.State([], time_to_live=HOURS_KEPT * 3600)
        self.figures = gr.HTML("", label="Figures", elem_id="figures", elem_classes="figures")
        with gr.Row(elem_classes="ask"):
            self.prompt = gr.Textbox(
                show_label=False,
                label="Message",
                placeholder=_hint(engine),
                lines=1,
                max_lines=8,
                autofocus=True,
                container=False,
                scale=6,
                min_width=200,
                elem_id="prompt",
            )
            self.send = gr.Button("Send", variant="primary", scale=1, min_width=72, elem_id="send")
            self.stop = gr.Button("Stop", scale=1, min_width=72, elem_id="stop")
            self.clear = gr.Button("Clear", scale=1, min_width=72, elem_id="clear")

    def connect(self, settings: Settings) -> None:
        """Events: answer, stop, clear, another model."""

        def chat(prompt: str | None, messages: list[dict], model: str, **values: Any) -> Iterator[dict]:
            try:
                question = settings.question([*messages, {"role": "user", "content": prompt or ""}], values)
                engine = self.models[model]
                yield {self.prompt: "", self.transcript: shown(question.messages), self.figures: "…"}
                for update in progress(engine, question):
                    messages = [*question.messages, {"role": "assistant", "content": update.text}][-MAX_MESSAGES:]
                    yield {
                        self.messages: messages,
                        self.transcript: shown(messages),
                        self.figures: as_text(f"{model} · {update.figures}"),
                    }
            except UserError as error:
                raise visible(error) from None

        def pick(model: str) -> tuple[dict, dict]:
            try:
                engine = self.models[model]
            except UserError as error:
                raise visible(error) from None
            return gr.update(visible=not engine.is_chat), gr.update(placeholder=_hint(engine))

        answering = gr.on(
            [self.send.click, self.prompt.submit],
            chat,
            inputs=[self.prompt, self.messages, self.model],
            inputs_kwargs=settings.controls,
            outputs=[self.transcript, self.messages, self.prompt, self.figures],
            api_name="chat",
            show_progress="hidden",
            concurrency_id=ENGINE,
            concurrency_limit=1,
        )
        self.stop.click(None, cancels=[answering])
        self.clear.click(
            lambda: ([], [], ""),
            outputs=[self.transcript, self.messages, self.figures],
            cancels=[answering],
            api_name="clear",
            show_progress="hidden",
            concurrency_limit=None,
        )
        self.model.input(
            pick,
            inputs=[self.model],
            outputs=[self.note, self.prompt],
            api_visibility="private",
            show_progress="minimal",
            concurrency_id=ENGINE,
        )


def _hint(engine: Engine) -> str:
    return CHAT_HINT if engine.is_chat else BASE_HINT
