"""Answers under way on the server: one thread generates for all of them, a piece each in turn, so that a short answer
never waits for a long one to end. Asyncio queues carry the text to the clients."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from queue import Full, Queue

from transformers.cli.serving.utils import ToolCall, _StreamError

from hfgpt.chat.engine import FinishReason, Piece
from hfgpt.chat.serve_requests import RequestError
from hfgpt.chat.serve_text import CallPiece, TextUntil

logger = logging.getLogger(__name__)

MAX_WAITING = 256  # answers in line behind those that are being generated


class Answer:
    """One answer: its queue gives texts and tool calls, at last None, or a `_StreamError` in None's place.

    Built on the event loop; `advance` and `fail` are called by the thread that generates.
    """

    def __init__(self, pieces: Iterator[Piece], stops: Sequence[str]) -> None:
        self.queue: asyncio.Queue[str | ToolCall | _StreamError | None] = asyncio.Queue()
        self.total_tokens = 0  # generated so far, the end token included
        self.finish_reason: FinishReason | None = None
        self._loop = asyncio.get_running_loop()
        self._pieces = pieces
        self._text = TextUntil(stops)
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Nobody waits for this answer any more: no further token of it is generated."""
        self._cancelled.set()

    def advance(self) -> bool:
        """Generate one piece more; False if that was the last."""
        if self._cancelled.is_set():
            self._put(None)
            return False
        try:
            piece = next(self._pieces)
        except Exception:
            logger.exception("An answer could not be generated.")
            self.fail("The model could not generate this answer.")
            return False
        self.total_tokens += piece.num_tokens
        text = self._text.append(piece.text)
        self.finish_reason = "stop" if self._text.found else piece.finish_reason
        if self.finish_reason or isinstance(piece, CallPiece):
            text += self._text.rest()
        if text:
            self._put(text)
        if isinstance(piece, CallPiece):
            self._put(piece.call)
        if self.finish_reason:
            self._put(None)
        return self.finish_reason is None

    def fail(self, message: str) -> None:
        """End without a finish reason. `message` is a plain sentence: it goes into JSON as it is."""
        self._put(_StreamError(message))

    def _put(self, item: str | ToolCall | _StreamError | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there any more
            self._loop.call_soon_threadsafe(self.queue.put_nowait, item)


class Rotation:
    """The thread that generates: up to `max_active` answers at a time, a piece each in turn, the rest in line."""

    def __init__(self, max_active: int) -> None:
        self.max_active = max_active
        self._line: Queue[Answer | None] = Queue(MAX_WAITING)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    def add(self, answer: Answer) -> None:
        """Put an answer into the line. Raises RequestError (503) where the line is full."""
        if self._stopping.is_set():
            raise RequestError("The server is stopping.", status=503)
        try:
            self._line.put_nowait(answer)
        except Full:
            raise RequestError("The server is overloaded; try again later.", status=503, code="overloaded") from None

    def stop(self, seconds: float) -> None:
        """End all answers with an error; waits at most `seconds` for the token that is being generated."""
        self._stopping.set()
        with contextlib.suppress(Full):
            self._line.put_nowait(None)  # wakes a thread that has nothing to do
        self._thread.join(seconds)

    def _work(self) -> None:
        active: deque[Answer] = deque()
        while not self._stopping.is_set():
            if len(active) < self.max_active and (not active or not self._line.empty()):
                answer = self._line.get()
                if answer is not None:
                    active.append(answer)
            else:
                answer = active.popleft()
                if answer.advance():
                    active.append(answer)
        while not self._line.empty():
            left = self._line.get()
            if left is not None:
                active.append(left)
        for answer in active:
            answer.fail("The server is stopping.")
