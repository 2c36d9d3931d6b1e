"""A chat with a language model, as a HuggingFace Space. It needs gradio, torch and transformers, nothing else.

`hfgpt space` copies this file as app.py, with MODEL and TITLE set.
"""

import html
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import gradio as gr
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

MODEL = "model"  # a folder beside this file, or a model's id on the Hub
TITLE = "A small language model"
MAX_PROMPT_CHARS = 4000
MAX_MESSAGES = 50  # of a conversation that are kept
QUEUE_SIZE = 16  # visitors who may wait while one is answered
SECONDS_FOR_A_PIECE = 120
MIN_TEMPERATURE = 0.001  # logits divided by less may become infinite
FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif")
STYLE = ".message-content { white-space: pre-wrap; overflow-wrap: anywhere; }"


class ChatModel:
    """A model and its tokenizer, from a folder or the Hub, on the GPU where there is one."""

    def __init__(self, name_or_path: str) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self.tokenizer: Any = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=True)
        model: Any = AutoModelForCausalLM.from_pretrained(name_or_path, dtype=dtype, trust_remote_code=True)
        self.model = model.to(device).eval()
        self.context: int = model.config.get_text_config().to_dict().get("max_position_embeddings") or 2048
        stop = model.generation_config.eos_token_id
        # A base model continues a text: it has no chat template, or stops where the next document begins too.
        is_base = isinstance(stop, list) and self.tokenizer.bos_token_id in stop
        self.is_chat = self.tokenizer.chat_template is not None and not is_base

    def prompt_ids(self, messages: list[dict], room: int) -> torch.Tensor:
        """The tokens to answer, (1, length), without the oldest turns where they and `room` tokens do not fit."""
        while True:
            if self.is_chat:
                inputs = self.tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
                )
            else:
                messages = messages[-1:]
                inputs = self.tokenizer(messages[0]["content"], return_tensors="pt", split_special_tokens=True)
            ids = inputs["input_ids"]
            if ids.shape[1] + room <= self.context:
                return ids.to(self.model.device)
            if len(messages) < 3:
                raise refusal(f"The message has {ids.shape[1]:,} tokens; at most {self.context - room:,} are read.")
            messages = messages[2:]  # a question and its answer

    def pieces(self, ids: torch.Tensor, max_new_tokens: int, temperature: float) -> Iterator[str]:
        """The answer as it is generated, until the token that ends it; closing the iterator ends the work."""
        streamer = TextIteratorStreamer(
            self.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=SECONDS_FOR_A_PIECE
        )
        sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        nobody_waits = Stopped()
        failures: list[Exception] = []

        def generate() -> None:
            try:
                self.model.generate(
                    inputs=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=max_new_tokens,
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([nobody_waits]),
                    **sampling,
                )
            except Exception as error:  # else the page would wait for a piece that never comes
                failures.append(error)
                streamer.end()

        Thread(target=generate, daemon=True).start()
        try:
            yield from streamer
        finally:
            nobody_waits.event.set()
        if failures:
            raise failures[0]


class Stopped(StoppingCriteria):
    """Ends a generation once its event is set."""

    def __init__(self) -> None:
        self.event = Event()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), dtype=torch.bool, device=input_ids.device)


def refusal(reason: str) -> gr.Error:
    """An error that the visitor sees, and the log does not."""
    return gr.Error(reason, print_exception=False)


def shown(messages: list[dict]) -> list[dict]:
    """Messages as gradio takes them, escaped: what is said is seen as text, and nothing in it is live."""
    return [
        {"role": message["role"], "content": [{"type": "text", "text": html.escape(message["content"])}]}
        for message in messages
    ]


def build_page(model: ChatModel) -> gr.Blocks:
    """One conversation with `model`, kept on the server while the visitor's session lasts."""

    def chat(prompt: str, messages: list[dict], max_new_tokens: int, temperature: float) -> Iterator[tuple]:
        if not prompt.strip():
            raise refusal("The message is empty: write something.")
        if len(prompt) > MAX_PROMPT_CHARS:
            raise refusal(f"The message has {len(prompt):,} characters; at most {MAX_PROMPT_CHARS:,} are read.")
        if 0 < temperature < MIN_TEMPERATURE:
            raise refusal(f"The temperature must be 0 or from {MIN_TEMPERATURE} on, not {temperature}.")
        asked = [*messages, {"role": "user", "content": prompt}]
        room = min(int(max_new_tokens), model.context // 2)
        ids = model.prompt_ids(asked, room)
        yield shown(asked), messages, ""
        text = ""
        for piece in model.pieces(ids, room, temperature):
            text += piece
            messages = [*asked, {"role": "assistant", "content": text}][-MAX_MESSAGES:]
            yield shown(messages), messages, ""

    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_height=True) as page:
        gr.HTML(f"<h1>{html.escape(TITLE)}</h1>")
        if not model.is_chat:
            gr.HTML("This is a base model: it continues your text, and sees your last message only.")
        transcript = gr.Chatbot(
            label="Conversation",
            show_label=False,
            scale=1,
            render_markdown=False,
            latex_delimiters=[],
            allow_tags=False,
            buttons=[],
            feedback_options=None,
        )
        history = gr.State([], time_to_live=3600)
        with gr.Row():
            prompt = gr.Textbox(
                label="Message",
                show_label=False,
                placeholder="Write a message …",
                container=False,
                scale=6,
                autofocus=True,
            )
            send = gr.Button("Send", variant="primary", scale=1, min_width=72)
            stop = gr.Button("Stop", scale=1, min_width=72)
            clear = gr.Button("Clear", scale=1, min_width=72)
        with gr.Accordion("Settings", open=False):
            max_new_tokens = gr.Slider(1, 1024, 256, step=1, precision=0, label="Longest answer, in tokens")
            temperature = gr.Slider(0, 2, 0.8, step=0.05, label="Temperature")
        answering = gr.on(
            [send.click, prompt.submit],
            chat,
            inputs=[prompt, history, max_new_tokens, temperature],
            outputs=[transcript, history, prompt],
            api_name="chat",
            show_progress="hidden",
            concurrency_limit=1,
        )
        stop.click(None, cancels=[answering])
        gr.on(
            [clear.click, transcript.clear],
            lambda: ([], []),
            outputs=[transcript, history],
            cancels=[answering],
            api_visibility="private",
        )
    return page


if __name__ == "__main__":
    beside = Path(__file__).with_name(MODEL)
    page = build_page(ChatModel(str(beside) if beside.is_dir() else MODEL))
    page.queue(max_size=QUEUE_SIZE).launch(
        share=False,
        theme=gr.themes.Base(primary_hue="indigo", neutral_hue="slate", font=FONT),
        css=STYLE,
        footer_links=[],
        run_history=False,
    )
