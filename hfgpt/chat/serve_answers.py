"""Answers under way on the server: one thread generates for all of them, a piece each in turn, so that a short answer
never waits for a long one to end, and clients take turns in line. Asyncio queues carry the text to the clients."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence

from transformers.cli.serving.utils import ToolCall, _StreamError

from hfgpt.chat.engine import FinishReason, Piece
from hfgpt.chat.serve_requests import RequestError
from hfgpt.chat.serve_text import CallPiece, TextUntil

logger = logging.getLogger(__name__)

MAX_WAITING = 512  # answers in line behind those that are being generated
MAX_WAITING_OF_ONE = 256  # of these, answers for one client


class Answer:
    """One answer: its queue gives texts and tool calls, at last None, or a `_StreamError` in None's place.

    Built on the event loop; `advance` and `fail` are called by the thread that generates.
    """

    def __init__(self, pieces: Iterator[Piece], stops: Sequence[str], client: str = "") -> None:
        self.client = client
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

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def advance(self) -> bool:
        """Generate one piece more; False if that was the last. The cache is then gone, however long the client takes
        to read the answer."""
        goes_on = self._advance()
        if not goes_on:
            self._pieces = iter(())  # nobody else has the generator: this closes it
        return goes_on

    def _advance(self) -> bool:
        if self.is_cancelled:
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
    """The thread that generates: up to `max_active` answers at a time, a piece each in turn, the rest in line. The
    next answer is one of the client that has the fewest under way; among equals, clients take turns."""

    def __init__(self, max_active: int) -> None:
        self.max_active = max_active
        self.generated_tokens = 0  # since the server started
        self._active: deque[Answer] = deque()
        self._lines: dict[str, deque[Answer]] = {}  # by client, who had a turn last at the end; no line is empty
        self._changed = threading.Condition()  # guards the lines and _stopping
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    def add(self, answer: Answer) -> None:
        """Put an answer into its client's line. Raises RequestError: 429 where that is full, 503 where all lines
        together are."""
        with self._changed:
            if self._stopping:
                raise RequestError("The server is stopping.", status=503)
            if self._num_waiting() >= MAX_WAITING or len(self._lines.get(answer.client, ())) >= MAX_WAITING_OF_ONE:
                self._drop_cancelled()
            if len(self._lines.get(answer.client, ())) >= MAX_WAITING_OF_ONE:
                message = f"You have {MAX_WAITING_OF_ONE} requests waiting: ask again when some are answered."
                raise RequestError(message, status=429, code="rate_limit_exceeded")
            if self._num_waiting() >= MAX_WAITING:
                raise RequestError("The server is overloaded; try again later.", status=503, code="overloaded")
            self._lines.setdefault(answer.client, deque()).append(answer)
            self._changed.notify()

    def load(self) -> dict[str, int]:
        """Answers that are generated and that wait, and tokens generated since the start."""
        with self._changed:
            self._drop_cancelled()
            return {
                "generating": len(self._active),
                "waiting": self._num_waiting(),
                "generated_tokens": self.generated_tokens,
            }

    def stop(self, seconds: float) -> None:
        """End all answers with an error; waits at most `seconds` for the token that is being generated."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(seconds)

    def _work(self) -> None:
        while self._admit():
            answer = self._active[0]
            before = answer.total_tokens
            goes_on = answer.advance()
            self.generated_tokens += answer.total_tokens - before
            self._active.rotate(-1)
            if not goes_on:
                self._active.pop()
        for answer in (*self._active, *(answer for line in self._lines.values() for answer in line)):
            answer.fail("The server is stopping.")

    def _admit(self) -> bool:
        """Fill the free places from the lines, waiting while there is nothing to generate; False when stopping."""
        with self._changed:
            while not self._stopping:
                while self._lines and len(self._active) < self.max_active:
                    self._active.append(self._next())
                if self._active:
                    return True
                self._changed.wait()
            return False

    def _next(self) -> Answer:
        under_way = Counter(answer.client for answer in self._active)
        client = min(self._lines, key=lambda client: under_way[client])
        line = self._lines.pop(client)
        answer = line.popleft()
        if line:
            self._lines[client] = line
        return answer

    def _num_waiting(self) -> int:
        return sum(map(len, self._lines.values()))

    def _drop_cancelled(self) -> None:
        """Takes those out of the lines whose clients have gone."""
        staying = {
            client: deque(answer for answer in line if not answer.is_cancelled) for client, line in self._lines.items()
        }
        self._lines = {client: line for client, line in staying.items() if line}
