"""One terminal chat: hands prompts to the models, draws their replies as they come, and lets Ctrl-C stop a reply."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hfgpt.chat.answering import CalculatorPiece
from hfgpt.chat.engine import Engine
from hfgpt.chat.terminal_screen import Columns, Screen
from hfgpt.chat.terminal_session import INTERRUPTED, Conversation, Reply, Session
from hfgpt.errors import UserError


class Chat:
    """What the commands act on: the session, the screen, and how to load another model (`load(name)`)."""

    def __init__(self, session: Session, screen: Screen, load: Callable[[str], Engine], verbose: bool = False) -> None:
        self.session = session
        self.screen = screen
        self.load = load
        self.verbose = verbose

    def greet(self) -> None:
        engine = self.session.conversation.engine
        parameters = sum(parameter.numel() for parameter in engine.model.parameters())
        facts = (
            f"{short_number(parameters)} parameters",
            f"{engine.model.device.type}, {str(engine.model.dtype).removeprefix('torch.')}",
            f"context {engine.max_length:,} tokens",
            "chat" if engine.is_chat else "continues text",
        )
        self.screen.banner(short_name(engine), facts)

    def reply_to(self, prompt: str) -> None:
        """Answer `prompt` on the screen and keep what came. Raises UserError where it cannot be answered."""
        if self.session.compared:
            self._replies_side_by_side(prompt, self.session.compared)
        else:
            self._reply(prompt, self.session.conversation)

    def retry(self) -> None:
        """Answer the last prompt anew; where nothing comes, what was there stays. Raises UserError without one."""
        earlier = [list(conversation.exchanges) for conversation in self.session.conversations]
        prompts = [exchanges[-1][0] for exchanges in earlier if exchanges]
        if not prompts:
            raise UserError("there is no prompt to answer again yet.")
        for conversation in self.session.conversations:
            if conversation.exchanges:
                conversation.exchanges.pop()
        try:
            self.reply_to(prompts[0])
        finally:
            for conversation, exchanges in zip(self.session.conversations, earlier, strict=True):
                if len(conversation.exchanges) < len(exchanges):
                    conversation.exchanges[:] = exchanges

    def _reply(self, prompt: str, conversation: Conversation) -> None:
        reply = conversation.ask(prompt)
        begun = False
        try:
            for piece in reply:
                if not begun and not conversation.engine.is_chat:
                    self.screen.text_to_continue(prompt)
                begun = True
                self.screen.text(piece.text)
                if isinstance(piece, CalculatorPiece):
                    self.screen.remark(calculation(piece))
        except KeyboardInterrupt:
            if not self.screen.interactive:
                raise
        self.screen.end_of_answer(ending(reply))
        conversation.keep(prompt, reply)
        if self.verbose:
            self.screen.notice(statistics_line(reply))

    def _replies_side_by_side(self, prompt: str, conversations: list[Conversation]) -> None:
        """One step of each model in turn, until all have ended."""
        replies = [conversation.ask(prompt) for conversation in conversations]
        with Columns(self.screen, [title(conversation.engine) for conversation in conversations]) as columns:
            running = list(range(len(replies)))
            failed = set()
            try:
                while running:
                    for column in list(running):
                        try:
                            piece = replies[column].step()
                        except UserError as error:
                            columns.footer(column, str(error))
                            failed.add(column)
                            piece = None
                        if piece is None:
                            running.remove(column)
                        else:
                            columns.text(column, piece.text)
                            if isinstance(piece, CalculatorPiece):
                                columns.text(column, f" [{calculation(piece)}] ")
            except KeyboardInterrupt:
                if not self.screen.interactive:
                    raise
            for column, (conversation, reply) in enumerate(zip(conversations, replies, strict=True)):
                if column not in failed:
                    conversation.keep(prompt, reply)
                    columns.footer(column, ", ".join(filter(None, (statistics_line(reply), ending(reply)))))


def calculation(piece: CalculatorPiece) -> str:
    return f"calculator: {piece.expression} = {piece.result}"


def ending(reply: Reply) -> str:
    """Why the answer ended, where it did not end by itself."""
    if reply.finish_reason == INTERRUPTED:
        return "stopped"
    if reply.finish_reason == "length":
        return f"cut off after {reply.num_tokens} tokens"
    return "" if reply.text else "an empty answer"


def short_name(engine: Engine) -> str:
    """The last two parts of a folder (run and stage), or the Hub id."""
    return "/".join(Path(str(engine.name)).parts[-2:])


def title(engine: Engine) -> str:
    return short_name(engine) + ("" if engine.is_chat else " (continues text)")


def short_number(count: int) -> str:
    """1,310,720 as 1.31M."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{letter}"
    return str(count)


def statistics_line(reply: Reply) -> str:
    speed = reply.tokens_per_second
    tokens = "1 token" if reply.num_tokens == 1 else f"{reply.num_tokens} tokens"
    line = f"{tokens}, first after {1e3 * reply.seconds_to_first_token:,.0f} ms"
    return line if speed is None else f"{line}, {speed:,.0f} tokens/s"
