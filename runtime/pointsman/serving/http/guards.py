"""What every request passes: an id and a log line, a limit on its body, the host's name, a key.

ASGI applications around the application, in this order; none of them knows a protocol.
"""

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pointsman.serving.http.errors import path_of, refusal, status_of
from pointsman.serving.http.events import MEDIA_TYPE
from pointsman.serving.http.keys import ApiKeys
from pointsman.serving.limits import ServiceLimits
from pointsman.serving.metrics import Metrics

_LOG: Final = logging.getLogger("pointsman.serving")
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_OPEN_TO_ALL: Final = re.compile(r"/|/page/[\w.-]+|/v2/health/(live|ready)")
_WRONG_KEY: Final = "this service does not know the key that was sent; ask who runs it for one"
_GONE: Final = "gone"
_PASSED_OVER: Final = 16 << 20  # bytes of a body that is too large, at most


class RequestLog:
    """Gives every request an id, `X-Request-Id`, and logs and counts how it ended.

    A client may bring an id of its own (up to 64 letters, digits, dots, dashes and underscores).
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Sequence[BaseRoute]) -> None:
        self.app, self._metrics, self._routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        watched = _Watched(scope, send, self._metrics, self._routes)
        with self._metrics.in_flight():
            try:
                await self.app(scope, receive, watched.send)
            except Exception as error:  # noqa: BLE001 - the last place that can answer
                await watched.failed(error, receive)
            finally:
                watched.log()


class _Watched:
    """One request, and what is known of its answer."""

    def __init__(self, scope: Scope, send: Send, metrics: Metrics, routes: Sequence[BaseRoute]) -> None:
        self._scope, self._send, self._metrics, self._routes = scope, send, metrics, routes
        self._began = time.monotonic()
        self._status: int | None = None
        self._is_stream = self._is_complete = False
        self.id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = self.id

    async def send(self, message: Message) -> None:
        """Send a part of the answer, and remember what it says."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
            headers.append((b"x-content-type-options", b"nosniff"))
            self._is_stream = any(value.startswith(MEDIA_TYPE.encode()) for _, value in headers)
        elif message["type"] == "http.response.body":
            if self._is_stream and message.get("body"):
                self._metrics.first_token(time.monotonic() - self._began)
                self._is_stream = False
            self._is_complete |= not message.get("more_body", False)
        await self._send(message)

    async def failed(self, error: Exception, receive: Receive) -> None:
        """Log what nobody foresaw, and answer if nothing was sent."""
        _LOG.error("request failed", exc_info=error, extra={"request_id": self.id})
        if self._status is None:
            status, message, headers = status_of(error)
            await refusal(path_of(self._scope), status, message, headers=headers)(self._scope, receive, self.send)

    def log(self) -> None:
        """Log and count how it ended."""
        outcome = str(self._status) if self._is_complete else _GONE
        seconds = time.monotonic() - self._began
        route = _route(self._scope, self._routes)
        self._metrics.answered(route, outcome, seconds)
        _LOG.info(
            "request",
            extra={
                "request_id": self.id,
                "method": self._scope["method"],
                "route": route,
                "outcome": outcome,
                "seconds": round(seconds, 6),
                "client": (self._scope.get("client") or ("",))[0],
            },
        )


def _route(scope: Scope, routes: Sequence[BaseRoute]) -> str:
    """The route that was asked, also where a guard has refused the request before any was looked for."""
    found = scope.get("route") or next((one for one in routes if one.matches(scope)[0] is not Match.NONE), None)
    return getattr(found, "path", "other")


def _request_id(scope: Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode("ascii") if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


class _LeftError(Exception):
    """The client left before its request was there."""


class Bodies:
    """Reads a request's body before anything else sees the request, within limits of size and time.

    While the request is answered, it watches for the client going away, and cancels the work then. A client that does
    not read its answer is let go of after a time.
    """

    def __init__(self, app: ASGIApp, limits: ServiceLimits) -> None:
        self.app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                body = await self._read(scope, receive)
        except TimeoutError:
            await self._refuse(
                scope, receive, send, 408, f"the body was not there after {self._limits.body_seconds:g} s"
            )
            return
        except _LeftError:
            return
        if body is None:
            await self._pass_over(scope, receive)
            await self._refuse(scope, receive, send, 413, f"the body is over {self._limits.body_bytes} bytes")
        elif any(name == b"content-encoding" and value != b"identity" for name, value in scope["headers"]):
            await self._refuse(scope, receive, send, 415, "the body is compressed; send it as it is")
        else:
            await self._answer(scope, body, receive, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None of one that is too large."""
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if int(length) > self._limits.body_bytes:
            return None
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _LeftError
            body += message.get("body", b"")
            if len(body) > self._limits.body_bytes:
                return None
            if not message.get("more_body", False):
                return bytes(body)

    async def _pass_over(self, scope: Scope, receive: Receive) -> None:
        """Read the rest of a body that is too large, in the time that others have for theirs.

        Who still sends does not read the refusal, and a connection that is closed with something unread is reset.
        """
        if any(name == b"expect" for name, _ in scope["headers"]):
            return  # it has not been sent
        size, is_more = 0, True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.body_seconds):
                while is_more and size < _PASSED_OVER:
                    message = await receive()
                    size += len(message.get("body", b""))
                    is_more = message.get("more_body", False)

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        answering = asyncio.ensure_future(self.app(scope, _giving(body), send))
        leaving = asyncio.ensure_future(receive())  # says that the client is gone, or that the answer is complete
        seconds = self._limits.seconds + self._limits.send_seconds
        try:
            await asyncio.wait({answering, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                answering.cancel()
            await _finished(answering)
        finally:
            answering.cancel()
            leaving.cancel()

    @staticmethod
    async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, sentence: str) -> None:
        # What was not read would be taken for the next request.
        answer = refusal(path_of(scope), status, sentence, headers={"Connection": "close"})
        await answer(scope, receive, send)


async def _finished(answering: "asyncio.Future[Any]") -> None:
    """Wait for the answer to end; one that was cancelled for its client's sake ends quietly."""
    try:
        await answering
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise


def _giving(body: bytes) -> Callable[[], Awaitable[Message]]:
    """A `receive` that gives a body, and then waits for ever: who leaves is seen elsewhere."""
    left = [body]

    async def receive() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    return receive


class Hosts:
    """Refuses what comes from pages of somebody else.

    These are requests for a name that is not this service's but leads here, and what browsers say that another site
    asks to be done (https://www.w3.org/TR/fetch-metadata/).
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        self.app, self._allowed = app, frozenset(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif _host(scope) not in self._allowed:
            sentence = "this service has another name; start it with `pointsman serve --allowed-host` if this is one"
            await refusal(path_of(scope), 421, sentence, headers={"Connection": "close"})(scope, receive, send)
        elif scope["method"] == "POST" and (b"sec-fetch-site", b"cross-site") in scope["headers"]:
            sentence = "a page of another site asks for this; only this service's own page may"
            await refusal(path_of(scope), 403, sentence, headers={"Connection": "close"})(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _host(scope: Scope) -> str:
    """The host that a request is for, without its port."""
    given = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1").lower()
    name, colon, port = given.rpartition(":")
    return name if colon and port.isdigit() else given


class Keys:
    """Asks for an API key, `Authorization: Bearer KEY`, wherever something could be learnt or used."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self.app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http" or _OPEN_TO_ALL.fullmatch(path_of(scope)) or self._is_known(scope):
            await self.app(scope, receive, send)
            return
        headers = {"WWW-Authenticate": "Bearer", "Connection": "close"}
        is_shown = _bearer(scope) is not None
        sentence = _WRONG_KEY if is_shown else "this service asks for a key: Authorization: Bearer KEY"
        await refusal(path_of(scope), 401, sentence, headers=headers)(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        key = _bearer(scope)
        return key is not None and key in self._keys


def _bearer(scope: Scope) -> str | None:
    """The key that a request shows."""
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    kind, _, key = given.decode("latin-1").partition(" ")
    return key.strip() or None if kind.lower() == "bearer" else None
