"""The installed command `pointsman serve` as tests run it, and raw sockets to it."""

import json
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conftest import installed

READY_SECONDS = 60


@dataclass
class Served:
    """A running service.

    Attributes:
        url: Where it is.
        process: What runs it.
        log: Its log lines so far.
    """

    url: str
    process: subprocess.Popen[str]
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def connection(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)

    def raw(self, request: bytes) -> bytes:
        """All that comes back to bytes that are sent, until the connection ends."""
        with self.connection() as connection:
            connection.sendall(request)
            answer = b""
            try:
                while part := connection.recv(1 << 16):
                    answer += part
            except ConnectionResetError:
                pass  # what was not read of a request ends the connection so
            return answer

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(30)


@contextmanager
def serving(*arguments: str | Path) -> Iterator[Served]:
    """Run the command until the block ends; it must then stop by itself."""
    command = [installed("pointsman"), "serve", *map(str, arguments), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        served = Served("", process)
        is_ready = threading.Event()
        reader = threading.Thread(target=_read, args=(served, is_ready), daemon=True)
        reader.start()
        try:
            assert is_ready.wait(READY_SECONDS), f"not ready after {READY_SECONDS} s: {served.log}"
            assert served.url, f"it ended: {served.log}"
            yield served
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise
            reader.join(5)


def _read(served: Served, is_ready: threading.Event) -> None:
    assert served.process.stderr is not None
    for line in served.process.stderr:
        try:
            record = json.loads(line)
        except ValueError:
            record = {"event": line}  # no log line: a sentence for people, or a traceback
        served.log.append(record)
        if record["event"] == "ready":
            served.url = record["url"]
            is_ready.set()
    is_ready.set()
