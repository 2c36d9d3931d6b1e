"""What a request to the OpenAI-compatible server may say, and the errors that answer the rest. Imports no torch."""

import dataclasses
import json
from typing import Any

from hfgpt.chat.sampling import Sampling
from hfgpt.data.conversations import read_turns, tools_of
from hfgpt.errors import UserError

SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")
COMMON_FIELDS = {"model", "stream", "stream_options", "stop", "max_tokens", *SAMPLING_FIELDS}
CHAT_FIELDS = COMMON_FIELDS | {"messages", "tools", "max_completion_tokens"}
COMPLETION_FIELDS = COMMON_FIELDS | {"prompt"}
# Fields of OpenAI's that change no answer here.
IGNORED_FIELDS = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "verbosity"}
# Fields of OpenAI's that this server cannot honour, with the values that leave them off.
OFF_VALUES: dict[str, tuple] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tool_choice": ("auto",),
    "parallel_tool_calls": (True, False),
}
MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256  # characters
MAX_ERROR_LENGTH = 600  # characters: a sentence may quote what was sent


class RequestError(ValueError):
    """A request that gets no answer: HTTP status, sentence, and the field and code of OpenAI's error object."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None):
        super().__init__(message if len(message) <= MAX_ERROR_LENGTH else f"{message[:MAX_ERROR_LENGTH]} ...")
        self.status = status
        self.param = param
        self.code = code

    def as_json(self) -> dict[str, Any]:
        """The body of the response, as OpenAI words its errors."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def too_long(length: str, max_length: int) -> RequestError:
    """The error for a prompt that leaves no room in a context of `max_length` tokens."""
    message = f"The prompt has {length}; with its answer it may have {max_length:,} tokens: shorten it."
    return RequestError(message, code="context_length_exceeded")


def parsed(content: bytes) -> dict[str, Any]:
    """The JSON object in a request's body. Raises RequestError."""
    try:
        body = json.loads(content)
        json.dumps(body, ensure_ascii=False).encode()  # halves of surrogate pairs are no text
    except UnicodeEncodeError:
        raise RequestError("The request holds text that is no valid Unicode.") from None
    except (ValueError, RecursionError):
        raise RequestError("The request's body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise RequestError("The request's body must be a JSON object.")
    return body


def check_fields(body: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """The fields of `body` that are set and mean something here.

    Raises RequestError for a field nobody knows, and for one of OpenAI's that would change the answer and cannot.
    """
    fields = {name: value for name, value in body.items() if value is not None and name not in IGNORED_FIELDS}
    for name, value in body.items():
        if name in fields and name not in known:
            if name not in OFF_VALUES:
                raise RequestError(f"The field {name} is not known here.", param=name, code="unknown_parameter")
            if value not in OFF_VALUES[name]:
                raise RequestError(f"This server does not support {name}.", param=name, code="unsupported_parameter")
            del fields[name]
    if not isinstance(fields.get("stream", False), bool):
        raise RequestError("stream must be true or false.", param="stream")
    if not isinstance(fields.get("stream_options", {}), dict):
        raise RequestError("stream_options must be an object.", param="stream_options")
    return fields


def sampling_in(fields: dict[str, Any], defaults: Sampling) -> Sampling:
    """The defaults, with what the request sets. Raises RequestError."""
    values = {name: fields[name] for name in SAMPLING_FIELDS if name in fields}
    if values.get("top_k") in (0, -1):  # as vLLM and llama.cpp write "all of them"
        values["top_k"] = None
    limit = next((name for name in ("max_completion_tokens", "max_tokens") if name in fields), None)
    if limit:
        values["max_new_tokens"] = fields[limit]
    try:
        return dataclasses.replace(defaults, **values)
    except UserError as error:
        raise RequestError(str(error).replace("max_new_tokens", limit or "")) from None


def stop_strings_in(fields: dict[str, Any]) -> tuple[str, ...]:
    """The texts before which the answer is to end. Raises RequestError."""
    stop = fields.get("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise RequestError("stop must be a text, or a list of texts, none of them empty.", param="stop")
    if len(stop) > MAX_STOP_STRINGS or any(len(text) > MAX_STOP_LENGTH for text in stop):
        limits = f"{MAX_STOP_STRINGS} texts of {MAX_STOP_LENGTH} characters"
        raise RequestError(f"stop may hold at most {limits}.", param="stop")
    return tuple(stop)


def messages_in(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """The conversation in the form that chat templates take. Raises RequestError."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages must be a list of at least one message.", param="messages")
    try:
        turns = read_turns(messages, "messages")
    except ValueError as error:
        raise RequestError(f"messages cannot be read: {error}.", param="messages") from None
    if not turns:
        raise RequestError("messages must hold at least one message that is not blank.", param="messages")
    return turns


def tools_in(fields: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The tools that the answer may call, as JSON schemas. Raises RequestError."""
    try:
        return tools_of(fields)
    except ValueError:
        raise RequestError("tools must be a list of JSON schemas.", param="tools") from None


def prompt_in(fields: dict[str, Any]) -> str:
    """The text to complete. Raises RequestError."""
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise RequestError("prompt must be a text; lists of several prompts are not supported.", param="prompt")
    return prompt
