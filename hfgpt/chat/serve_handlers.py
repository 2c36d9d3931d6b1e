"""transformers' own handlers of the OpenAI protocol over one engine. They word the answers; what a request may say,
which model answers and how its tokens are generated is decided here."""

from __future__ import annotations

import asyncio
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError
from openai.types import CompletionUsage
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.utils import BaseGenerateManager, BaseHandler, GenerationState, ToolCall, _StreamError

from hfgpt.chat import serve_requests as requests
from hfgpt.chat.answering import CalculatorTokens, answer
from hfgpt.chat.engine import Engine, Piece
from hfgpt.chat.sampling import Sampling
from hfgpt.chat.serve_answers import Answer, Rotation
from hfgpt.chat.serve_requests import RequestError
from hfgpt.chat.serve_text import pieces_with_calls

PART_LENGTH = 1 << 16  # characters of a stream that are sent at a time, and which its client must take in time

logging.getLogger("transformers.cli.serving").setLevel(logging.ERROR)  # it warns of every request


class OneModel(ModelManager):
    """The one model that is served, loaded already: no request loads another or unloads it."""

    def __init__(self, engine: Engine, name: str) -> None:
        super().__init__()
        self.engine = engine
        self.force_model = name

    @staticmethod
    def process_model_name(model_id: str) -> str:
        return model_id

    def load_model_and_processor(self, *_: Any, **__: Any) -> tuple[Any, Any]:
        return self.engine.model, self.engine.tokenizer


@dataclass
class Wanted:
    """What a request wants generated: the pieces that follow a prompt's tokens, up to a stop string."""

    pieces: Callable[[list[int]], Iterator[Piece]]
    stops: tuple[str, ...]
    client: str  # whose turn in line it takes
    answer: Answer | None = None  # once it has begun

    @property
    def max_new_tokens(self) -> int | None:
        """transformers' handlers read this when the answer is done, and say "length" if so many tokens were generated.
        The limit itself would make them say so of an end token in the last place."""
        return self.answer.total_tokens if self.answer and self.answer.finish_reason == "length" else None


class EngineGeneration(BaseGenerateManager):
    """Generation by the engine, in the rotation."""

    def __init__(self, engine: Engine, rotation: Rotation) -> None:
        self.engine = engine
        self.rotation = rotation

    def generate_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, request_id: str, response_parser: Any = None
    ) -> tuple[asyncio.Queue, Any]:
        """The queue of a new answer, and the answer. `gen_config` is a `Wanted`.

        Raises RequestError for a prompt that is empty or too long, and where too many answers wait already.
        """
        prompt_ids = inputs["input_ids"][0].tolist()
        if not prompt_ids:
            raise RequestError("The prompt is empty.", param="prompt")
        if len(prompt_ids) >= self.engine.max_length:
            raise requests.too_long(f"{len(prompt_ids):,} tokens", self.engine.max_length)
        gen_config.answer = Answer(gen_config.pieces(prompt_ids), gen_config.stops, gen_config.client)
        self.rotation.add(gen_config.answer)
        return gen_config.answer.queue, gen_config.answer

    async def generate_non_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, request_id: str
    ) -> tuple[str, int, Any]:
        """Text, length of the prompt, and something as long as the answer: transformers only counts it."""
        text, _ = await self.whole(model, processor, inputs, gen_config, request_id)
        return text, inputs["input_ids"].shape[-1], range(gen_config.answer.total_tokens)

    async def whole(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, request_id: str
    ) -> tuple[str, list[ToolCall]]:
        """Text and tool calls of a whole answer."""
        queue, answer = self.generate_streaming(model, processor, inputs, gen_config, request_id)
        texts: list[str] = []
        calls: list[ToolCall] = []
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, _StreamError):
                    raise RequestError(item.msg, status=500)
                calls.append(item) if isinstance(item, ToolCall) else texts.append(item)
        except asyncio.CancelledError:  # the client has gone
            answer.cancel()
            raise
        return "".join(texts), calls

    def stop(self) -> None:
        self.rotation.stop(seconds=5)


class EngineState(GenerationState):
    """Where transformers' handlers ask for the way to generate: always this one."""

    def __init__(self, generation: EngineGeneration) -> None:
        super().__init__()
        self.generation = generation

    def get_manager(self, model_id: str, use_cb: bool = False) -> BaseGenerateManager:
        return self.generation


class _Handler(BaseHandler, ABC):
    """What chat and completions have in common: their requests are checked here before transformers sees them."""

    def __init__(
        self, engine: Engine, name: str, state: EngineState, defaults: Sampling, calculator: bool = False
    ) -> None:
        super().__init__(OneModel(engine, name), state)
        self.engine, self.name, self.defaults, self.calculator = engine, name, defaults, calculator
        if calculator:
            CalculatorTokens(engine)  # raises UserError where the model cannot call it
        self.longest_token = max(map(len, engine.tokenizer.get_vocab()))

    def _validate_request(self, body: dict) -> None:
        """Nothing is left to check."""

    def _build_generation_config(self, body: dict, *_: Any, **__: Any) -> Any:
        return body["wanted"]

    async def handle_request(self, body: dict, request_id: str, client: str = "") -> StreamingResponse | JSONResponse:
        """The response to a request's JSON object that came from the address `client`. Raises RequestError."""
        request = self.read(body, client)
        del body  # up to a mebibyte of JSON need not wait in line with the answer
        try:
            response = await super().handle_request(request, request_id)  # type: ignore[misc]
        except TemplateError as error:
            raise RequestError(f"The model's chat template refuses the messages: {error}", param="messages") from None
        return AnswerStream(response.body_iterator, request["wanted"].answer) if request["stream"] else response

    @abstractmethod
    def read(self, body: dict, client: str) -> dict[str, Any]:
        """What transformers' handler is to answer, `wanted` among it. Raises RequestError."""

    def check_model(self, fields: dict[str, Any]) -> None:
        """Raises RequestError (404) where the request names another model."""
        if fields.get("model", self.name) != self.name:
            message = f"The model {fields['model']} is not served here; {self.name} is."
            raise RequestError(message, status=404, param="model", code="model_not_found")

    def check_length(self, num_characters: int) -> None:
        """Refuses what cannot fit the context before time is spent on cutting it into tokens."""
        if num_characters > self.engine.max_length * self.longest_token:
            raise requests.too_long(f"{num_characters:,} characters", self.engine.max_length)


class Chat(_Handler, ChatCompletionHandler):
    """/v1/chat/completions"""

    def read(self, body: dict, client: str) -> dict[str, Any]:
        fields = requests.check_fields(body, requests.CHAT_FIELDS)
        self.check_model(fields)
        if not self.engine.is_chat:
            raise RequestError(f"{self.name} is a base model: it continues texts, by /v1/completions.", param="model")
        messages, tools = requests.messages_in(fields), requests.tools_in(fields)
        self.check_length(_num_characters(messages, tools))
        sampling = requests.sampling_in(fields, self.defaults)

        def pieces(prompt_ids: list[int]) -> Iterator[Piece]:
            if self.calculator and not tools:
                return answer(self.engine, messages, sampling, calculator=True)
            return pieces_with_calls(self.engine, prompt_ids, sampling)

        wanted = Wanted(pieces, requests.stop_strings_in(fields), client)
        request = {"model": self.name, "messages": messages, "tools": tools, "wanted": wanted}
        return request | {"stream": fields.get("stream", False)}

    @staticmethod
    def get_processor_inputs_from_messages(messages: list[dict], modality: Any) -> list[dict]:
        return messages

    async def _non_streaming(
        self,
        request_id: str,
        model: Any,
        processor: Any,
        model_id: str,
        inputs: Any,
        gen_config: Any,
        gen_manager: Any,
        tools: Any = None,
    ) -> JSONResponse:
        """As transformers' own, which would look for tool calls in an answer's tokens."""
        text, calls = await gen_manager.whole(model, processor, inputs, gen_config, request_id)
        num_prompt, num_answer = inputs["input_ids"].shape[-1], gen_config.answer.total_tokens
        tool_calls = [
            {
                "id": f"{request_id}_tool_call_{index}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for index, call in enumerate(calls)
        ]
        completion = self._build_completion(
            request_id,
            text,
            model_id,
            finish_reason="tool_calls" if calls else gen_config.answer.finish_reason,
            usage=CompletionUsage(
                prompt_tokens=num_prompt, completion_tokens=num_answer, total_tokens=num_prompt + num_answer
            ),
            tool_calls=tool_calls or None,
        )
        return JSONResponse(completion)


class Completions(_Handler, CompletionHandler):
    """/v1/completions"""

    def read(self, body: dict, client: str) -> dict[str, Any]:
        fields = requests.check_fields(body, requests.COMPLETION_FIELDS)
        self.check_model(fields)
        prompt = requests.prompt_in(fields)
        self.check_length(len(prompt))
        sampling = requests.sampling_in(fields, self.defaults)

        def pieces(prompt_ids: list[int]) -> Iterator[Piece]:
            return self.engine.stream(prompt_ids, sampling)

        if self.engine.tokenizer("")["input_ids"]:  # the tokenizer leads with BOS itself, and one is enough
            prompt = prompt.removeprefix(self.engine.tokenizer.bos_token or "")
        wanted = Wanted(pieces, requests.stop_strings_in(fields), client)
        return {"model": self.name, "prompt": prompt, "wanted": wanted, "stream": fields.get("stream", False)}


class AnswerStream(StreamingResponse):
    """The events of a stream. However it ends, nothing more of its answer is generated: transformers' own would miss
    a client that goes before the first event."""

    def __init__(self, events: Any, answer: Answer) -> None:
        super().__init__(_with_end_mark(events), media_type="text/event-stream")
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.answer.cancel()


def _num_characters(messages: list[dict], tools: list[dict] | None) -> int:
    """Characters of what the template is to render, and one a message."""
    said = (1 + len(message["content"]) + len(str(message.get("tool_calls", ""))) for message in messages)
    return sum(said) + len(json.dumps(tools or "", ensure_ascii=False))


async def _with_end_mark(events: Any) -> AsyncIterator[str]:
    """The events of a stream, then the one by which OpenAI's streams end. What has gathered for a client that reads
    slowly comes as one text, of any length: it is sent in parts."""
    async with aclosing(events):
        async for text in events:
            for start in range(0, len(text), PART_LENGTH):
                yield text[start : start + PART_LENGTH]
    yield "data: [DONE]\n\n"
