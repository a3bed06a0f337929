"""Connections whose headers never end: uvicorn waits for them without a limit, and here it does not."""

import asyncio
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedConnection(H11Protocol):
    """A connection that is closed when a request has not begun in time.

    The time runs from when the connection was made, or from the first byte behind an answer, until the request's
    headers are complete; bytes that come one by one do not stop it. Between requests, uvicorn's own limit holds.
    """

    header_seconds: ClassVar[float] = 10.0

    def __init__(self, *arguments: Any, **keywords: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*arguments, **keywords)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time."""
        super().connection_made(transport)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Stop the time when a request is there."""
        before: object = self.cycle
        if self._timer is None and self.conn.their_state is h11.IDLE:
            self._start()
        super().data_received(data)
        if self.cycle is not before:
            self._stop()

    def _start(self) -> None:
        self._timer = self.loop.call_later(self.header_seconds, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
