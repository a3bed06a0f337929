"""uvicorn with our signals and exit codes, and log lines that programs can read."""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from types import FrameType
from typing import Any, Final

import uvicorn

from pointsman.errors import OptionsError, UnavailableError
from pointsman.serving.http.app import create_app
from pointsman.serving.http.connections import TimedConnection
from pointsman.serving.http.keys import ApiKeys
from pointsman.serving.limits import ServiceLimits
from pointsman.serving.metrics import Metrics
from pointsman.serving.service import Service

_KEEP_ALIVE: Final = (
    75  # seconds; longer than clients keep idle connections, so that none is closed as it is used again
)
_HEADER_BYTES: Final = 32 << 10
_AFTER_DRAINING: Final = 5  # seconds in which answers reach their clients
_LOG: Final = logging.getLogger("pointsman.serving")
_OWN_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class Server(uvicorn.Server):
    """A server that answers what it has taken when it is told to stop.

    Attributes:
        stopped_by: The signal that stopped it.
    """

    def __init__(self, config: uvicorn.Config, services: Sequence[Service], limits: ServiceLimits) -> None:
        super().__init__(config)
        self._services, self._limits = services, limits
        self._draining: list[asyncio.Task[bool]] = []
        self.stopped_by: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where.

        Raises:
            PointsmanError: A bundle cannot answer.
            OptionsError: Another process has begun to listen there since `bind`.
        """
        try:
            for service in self._services:
                await service.start()
        except UnavailableError:
            if self.stopped_by is None:
                raise
            return  # told to stop before all were ready
        try:
            await super().startup(sockets)
        except OSError as error:
            raise OptionsError(f"cannot listen ({error.strerror}); choose another port") from error
        if sockets and self.started:
            host, port = sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            models = [_served(one) for one in self._services]
            _LOG.info("ready", extra={"url": f"http://{shown}:{port}", "models": models})

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGTERM and SIGINT; unlike uvicorn's, nothing is raised again afterwards."""
        loop = asyncio.get_running_loop()
        before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
        for one in before:
            loop.add_signal_handler(one, self.handle_exit, one, None)
        try:
            yield
        finally:
            for one, handler in before.items():
                loop.remove_signal_handler(one)
                signal.signal(one, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no more requests, and stop when what was taken is answered; at the second SIGINT at once."""
        if self.stopped_by is None:
            _LOG.info("stopping", extra=_at_work(self._services))
            self.stopped_by = sig
            self._draining = [
                asyncio.ensure_future(one.scheduler.drain(self._limits.drain_seconds)) for one in self._services
            ]
        super().handle_exit(sig, frame)


def serve(
    services: Sequence[Service],
    metrics: Metrics,
    limits: ServiceLimits,
    *,
    at: socket.socket,
    keys: ApiKeys | None = None,
    hosts: Collection[str] = (),
) -> int | None:
    """Serve until a signal stops it.

    Args:
        services: What to serve.
        metrics: What is counted.
        limits: Of requests.
        at: Where to listen, from `bind`.
        keys: Keys that clients must show.
        hosts: Names that it may be called by; any, where there are none.

    Returns:
        The signal that stopped it.

    Raises:
        PointsmanError: It cannot listen there, or a bundle cannot answer.
    """
    times = {"header_seconds": limits.header_seconds, "send_seconds": limits.send_seconds}
    connection = type("Connection", (TimedConnection,), times)
    config = uvicorn.Config(
        create_app(services, metrics, limits, keys, hosts),
        http=connection,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections + 1,  # uvicorn refuses from so many on, the asking one among them
        timeout_keep_alive=_KEEP_ALIVE,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        timeout_graceful_shutdown=int(limits.drain_seconds) + _AFTER_DRAINING,
    )
    server = Server(config, services, limits)
    server.run(sockets=[at])
    left = sum(_at_work(services).values())  # after a second SIGINT
    _LOG.info("stopped", extra={"unanswered": left + sum(one.scheduler.unanswered for one in services)})
    return server.stopped_by


def _served(service: Service) -> dict[str, str]:
    """What runs under a name."""
    choice = service.infiller.model.choice
    return {"name": service.name, "variant": choice.variant, "engine": choice.engine, "device": choice.device}


def _at_work(services: Sequence[Service]) -> dict[str, int]:
    """Texts that wait, and texts that are worked on."""
    schedulers = [one.scheduler for one in services]
    return {"waiting": sum(one.waiting for one in schedulers), "running": sum(one.running for one in schedulers)}


def bind(host: str, port: int) -> socket.socket:
    """A socket with an address of its own, which does not listen yet: who calls is refused, and does not wait.

    Args:
        host: Name or address.
        port: 0 takes any that is free.

    Raises:
        OptionsError: The address is taken, or is none.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise OptionsError(f"cannot listen on {host} port {port} ({error.strerror}); choose another") from error
    return bound


class JsonLines(logging.Formatter):
    """Log records as JSON objects, one a line: time, level, event, and what else is known of it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _OWN_FIELDS}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr(level: str) -> None:
    """Let this program's log go to stderr as JSON lines; of uvicorn's, warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, lowest in (("pointsman", level.upper()), ("uvicorn", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(lowest)
