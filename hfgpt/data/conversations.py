"""One canonical conversation out of the forms in which chat data come: messages, ShareGPT, Alpaca, prompt and
completion, question and answer, bare lists of turns. Pure functions of one row; nothing here reads a file."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hfgpt.data.row_formats import json_type

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}
# GSM8K (Cobbe et al. 2021) writes each sum that it does as <<48/2=24>>, and ends with #### and the answer.
CALCULATION = re.compile(r"<<([^<>=]+)=([^<>=]*)>>")
FINAL_ANSWER = "\n#### "


class LeftOut(ValueError):
    """A row that is well formed but holds nothing to learn from; `reason` is the name under which it is counted."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def canonical(row: Mapping[str, Any] | list, columns: Mapping[str, str]) -> dict[str, Any]:
    """The conversation in `row` as {"messages": [...], "tools": [...] | None}, HF's own form.

    A message is {"role": "system" | "user" | "assistant" | "tool", "content": str}, an assistant's may have
    "tool_calls": [{"type": "function", "function": {"name": str, "arguments": dict}}], a tool's a "name". `columns`
    says which column holds what, as {"messages": "dialogue"} or {"prompt": "q", "completion": "a"}. Turns keep their
    order, however roles follow each other.

    Raises LeftOut where a turn is blank, there are no turns or text is no valid Unicode, and ValueError, saying why,
    for what is no conversation.
    """
    row = renamed(row, columns)
    form = _form_of(row, columns)
    messages = with_system(row, form.read(row))
    return checked({"messages": messages, "tools": tools_of(row)})


def renamed(row: Any, columns: Mapping[str, str]) -> dict[str, Any]:
    """The row with the names of `columns`, and a bare list of turns as {"messages": [...]}."""
    if isinstance(row, list):
        row = {"messages": row}
    if not isinstance(row, Mapping):
        raise ValueError(f"it is a JSON {json_type(row)}, not an object with named columns or a list of turns")
    for name, column in columns.items():
        if column not in row:
            raise ValueError(f"data.columns says {{{name}: {column}}}, but its columns are {', '.join(row)}")
    return dict(row) | {name: row[column] for name, column in columns.items()}


def with_system(row: Mapping[str, Any], messages: list[dict]) -> list[dict]:
    """The messages, led by what the row's column `system` says."""
    system = row.get("system")
    if system is None or (messages and messages[0]["role"] == "system"):
        return messages
    if not isinstance(system, str):
        raise ValueError(f"column 'system' is of type {json_type(system)}, not text")
    return [{"role": "system", "content": system}, *messages] if system.strip() else messages


def checked(conversation: dict[str, Any]) -> dict[str, Any]:
    """The conversation as it is. Raises LeftOut where there is nothing to learn from it."""
    if not conversation["messages"]:
        raise LeftOut("rows_without_turns", "it has no turns")
    for message in conversation["messages"]:
        blank = message["role"] in ("user", "assistant") and not message["content"].strip()
        if blank and not message.get("tool_calls"):
            raise LeftOut("rows_with_blank_turns", f"a turn of the {message['role']} is blank")
    try:
        json.dumps(conversation, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise LeftOut("rows_with_broken_unicode", "its text is no valid Unicode") from error
    return conversation


def read_turns(turns: Any, column: str) -> list[dict]:
    """The messages of a list of turns, {"role", "content"} or {"from", "value"}, or of JSON text that holds it."""
    if isinstance(turns, str):
        turns = _from_json(turns, f"column '{column}'")
    if turns is None:
        return []
    if not isinstance(turns, list):
        raise ValueError(f"column '{column}' is of type {json_type(turns)}, not a list of turns")
    messages = [message for number, turn in enumerate(turns, start=1) for message in _read_turn(turn, number)]
    return _with_tool_names([m for m in messages if m["role"] != "system" or m["content"].strip()])


def read_side(value: Any, role: str, column: str) -> list[dict]:
    """A prompt or an answer: text that `role` says, one turn, or a list of turns."""
    if value is None or isinstance(value, str):
        return [{"role": role, "content": value or ""}]
    if not isinstance(value, list | Mapping):
        raise ValueError(f"column '{column}' is of type {json_type(value)}, not text or turns")
    return read_turns([value] if isinstance(value, Mapping) else value, column)


def read_instruction(row: Mapping[str, Any]) -> list[dict]:
    """What the user says in an Alpaca row: the instruction, and the input below it where there is one."""
    said = "\n\n".join(text for text in (text_in(row, "instruction"), text_in(row, "input")) if text.strip())
    return [{"role": "user", "content": said}]


def read_solution(answer: str) -> list[dict]:
    """The turns of an answer; in one of GSM8K each <<48/2=24>> is a call of python, its result, and the assistant
    going on, as nanochat trains it."""
    if FINAL_ANSWER not in answer:
        return [{"role": "assistant", "content": answer}]
    *steps, end = CALCULATION.split(answer)
    messages = []
    for said, expression, result in zip(steps[0::3], steps[1::3], steps[2::3], strict=True):
        messages.append(_python_call(said, expression))
        messages.append({"role": "tool", "name": "python", "content": result})
    return [*messages, {"role": "assistant", "content": end}]


def tools_of(row: Mapping[str, Any]) -> list[dict] | None:
    """The row's tools as HF's schemas, from a list or from JSON text; None if there are none."""
    tools = row.get("tools")
    if isinstance(tools, str):
        tools = _from_json(tools, "column 'tools'") if tools.strip() else None
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise ValueError("column 'tools' is not a list of JSON schemas")
    return [dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)} for tool in tools]


def _read_turn(turn: Any, number: int) -> list[dict]:
    """The messages of one turn: one, but where parts of an assistant's content run Python."""
    if not isinstance(turn, Mapping):
        raise ValueError(f"turn {number} is of type {json_type(turn)}, not an object with role and content")
    keys = ("from", "value") if turn.get("role") is None and "from" in turn else ("role", "content")
    said_by, content = turn.get(keys[0]), turn.get(keys[1])
    role = ROLES.get(said_by) if isinstance(said_by, str) else None
    if role is None:
        who = "no role" if said_by is None else f"the role {json.dumps(said_by)}"
        raise ValueError(f"turn {number} has {who}; roles are {', '.join(ROLES)}")
    calls = turn.get("tool_calls") or turn.get("function_call")
    if said_by == "function_call":
        calls, content = _from_json(content, f"turn {number}"), None
    messages = _read_content(content, role, number)
    if calls:
        if messages[-1]["role"] != "assistant":
            raise ValueError(f"turn {number} of the {said_by} calls a tool, which only an assistant's can")
        calls = calls if isinstance(calls, list) else [calls]
        messages[-1]["tool_calls"] = [_read_call(call, number) for call in calls]
    if role == "tool":
        messages[-1] |= {"name": turn["name"]} if isinstance(turn.get("name"), str) else {}
    return messages


def _read_content(content: Any, role: str, number: int) -> list[dict]:
    """The messages of text, or of a list of parts, in which nanochat's `python` and `python_output` may stand."""
    if content is None or isinstance(content, str):
        return [{"role": role, "content": content or ""}]
    if not isinstance(content, list):
        raise ValueError(f"turn {number} has content of type {json_type(content)}, not text")
    messages: list[dict] = []
    said = ""
    for part in content:
        kind, text = ("text", part) if isinstance(part, str) else _kind_and_text(part)
        if not isinstance(text, str) or kind not in ("text", "python", "python_output"):
            raise ValueError(f"turn {number} has a part of type {kind} that is not text")
        if kind == "text":
            said += text
        elif role != "assistant":
            raise ValueError(f"turn {number} of the {role} has a part of type {kind}, which only an assistant's can")
        elif kind == "python":
            messages.append(_python_call(said, text))
            said = ""
        else:
            messages.append({"role": "tool", "name": "python", "content": text})
    return messages if messages and not said else [*messages, {"role": role, "content": said}]


def _kind_and_text(part: Any) -> tuple[Any, Any]:
    return (part.get("type"), part.get("text")) if isinstance(part, Mapping) else (json_type(part), None)


def _python_call(said: str, expression: str) -> dict:
    call = {"type": "function", "function": {"name": "python", "arguments": {"expression": expression}}}
    return {"role": "assistant", "content": said, "tool_calls": [call]}


def _read_call(call: Any, number: int) -> dict:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"turn {number} calls a tool without a name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _from_json(arguments or "{}", f"the call of {function['name']} in turn {number}")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise ValueError(
            f"turn {number} calls {function['name']} with arguments of type {json_type(arguments)}, not an object"
        )
    return {"type": "function", "function": {"name": function["name"], "arguments": dict(arguments)}}


def _with_tool_names(messages: list[dict]) -> list[dict]:
    """The messages with a name at each tool's result that has none: results come in the order of the calls."""
    waiting: list[str] = []
    for message in messages:
        waiting += [call["function"]["name"] for call in message.get("tool_calls", [])]
        if message["role"] == "tool" and waiting:
            message.setdefault("name", waiting.pop(0))
        elif message["role"] == "user":
            waiting = []
    return messages


def _from_json(text: Any, where: str) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON") from error


def _read_alpaca(row: Mapping[str, Any]) -> list[dict]:
    return [*read_instruction(row), {"role": "assistant", "content": text_in(row, "output")}]


def _read_completion(row: Mapping[str, Any]) -> list[dict]:
    return read_side(row["prompt"], "user", "prompt") + read_side(row["completion"], "assistant", "completion")


def _read_answer(row: Mapping[str, Any]) -> list[dict]:
    return [{"role": "user", "content": text_in(row, "question")}, *read_solution(text_in(row, "answer"))]


def text_in(row: Mapping[str, Any], column: str) -> str:
    """The text in a column, empty where it is null or missing."""
    text = row.get(column)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"column '{column}' is of type {json_type(text)}, not text")
    return text or ""


class _Form(NamedTuple):
    columns: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], list[dict]]


FORMS = (
    _Form(("messages",), lambda row: read_turns(row["messages"], "messages")),
    _Form(("conversations",), lambda row: read_turns(row["conversations"], "conversations")),
    _Form(("prompt", "completion"), _read_completion),
    _Form(("instruction", "output"), _read_alpaca),
    _Form(("question", "answer"), _read_answer),
)
EXPECTED = "messages, conversations, prompt and completion, instruction and output, or question and answer"
# Names that `data.columns` may give to a file's columns.
COLUMN_NAMES = sorted({name for form in FORMS for name in form.columns} | {"input", "system", "tools"})


def _form_of(row: Mapping[str, Any], columns: Mapping[str, str]) -> _Form:
    """The first form whose columns the row has; one that `data.columns` speaks of comes before the others."""
    for form in sorted(FORMS, key=lambda form: columns.keys().isdisjoint(form.columns)):
        if all(column in row for column in form.columns):
            return form
    pairs = "; chosen and rejected are preference pairs, for dpo" if {"chosen", "rejected"} <= row.keys() else ""
    raise ValueError(
        f"no conversation in its columns ({', '.join(row)}), which should be {EXPECTED}; "
        f"set data.columns to say which holds what, as {{messages: NAME}}{pairs}"
    )
