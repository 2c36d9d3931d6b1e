"""A connection of the server, which is cut when its client does not take what was sent to it."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.auto import AutoHTTPProtocol


def connection_class(send_seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol with a limit to how long one write may wait for its client. uvicorn has none: a client that
    opens streams and reads nothing would keep its places on the server for good."""

    class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            # The transport then says when anything is left that the system does not take, and when nothing is.
            transport.set_write_buffer_limits(high=0)
            self._stalled: asyncio.TimerHandle | None = None

        def pause_writing(self) -> None:
            super().pause_writing()
            # abort, not close: that would wait for the client once more. The application sees a client that has gone.
            self._stalled = asyncio.get_running_loop().call_later(send_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._forget()

        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            self._forget()

        def _forget(self) -> None:
            if self._stalled is not None:
                self._stalled.cancel()
                self._stalled = None

    return Connection
