"""Connections that nobody holds open for nothing: uvicorn waits without a limit for headers, and for who does not read.

What a client has not taken of its answers lies in this process, and `transport.close()` waits until it is taken. So
whatever cannot be sent has a time of its own, at whose end the connection is cut off.
"""

import asyncio
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedConnection(H11Protocol):
    """A connection that ends when a request has not begun in time, or an answer has not been taken in time.

    The first time runs from when the connection was made, or from the first byte behind an answer, until the request's
    headers are complete; bytes that come one by one do not stop it. Between requests, uvicorn's own limit holds. The
    second runs while there are bytes that the client leaves in this process.
    """

    header_seconds: ClassVar[float] = 10.0
    send_seconds: ClassVar[float] = 30.0

    def __init__(self, *arguments: Any, **keywords: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*arguments, **keywords)
        self._beginning: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the first time, and be told of every byte that cannot be sent."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop both."""
        self._stop_beginning()
        self._stop_sending()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Stop the first time when a request is there."""
        before: object = self.cycle
        if self._beginning is None and self.conn.their_state is h11.IDLE:
            self._begin()
        super().data_received(data)
        if self.cycle is not before:
            self._stop_beginning()

    def pause_writing(self) -> None:
        """Start the second time: the client does not take what it is sent."""
        super().pause_writing()
        self._sending = self.loop.call_later(self.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop it: all has been taken."""
        self._stop_sending()
        super().resume_writing()

    def _begin(self) -> None:
        self._beginning = self.loop.call_later(self.header_seconds, self.transport.close)

    def _stop_beginning(self) -> None:
        if self._beginning is not None:
            self._beginning.cancel()
            self._beginning = None

    def _stop_sending(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
