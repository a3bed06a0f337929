"""What plays the part of huggingface.co in tests: a small HTTP server on loopback that `huggingface_hub` is sent to."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import pytest


class HubHandler(BaseHTTPRequestHandler):
    """Answers HEAD as it answers GET, without the body."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def log_message(self, *arguments: object) -> None:
        """Keep quiet."""

    def answer(self, *, body: bool) -> None:
        """Answer a request; `body` says that it is no HEAD."""
        raise NotImplementedError

    def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        """Send an answer, and its data unless the request is a HEAD."""
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@contextlib.contextmanager
def serving(handler: type[HubHandler], monkeypatch: pytest.MonkeyPatch, **attributes: object) -> Iterator[str]:
    """The address of a running server, which everything that is fetched from the hub comes from.

    Args:
        handler: answers requests.
        monkeypatch: sets the hub's address for as long as a test runs.
        attributes: of the handler's class.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (handler,), attributes))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
