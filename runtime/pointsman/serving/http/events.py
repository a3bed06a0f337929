"""Server-sent events, as the HTML standard has them (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from fastapi import Request
from fastapi.responses import StreamingResponse

from pointsman.serving.http.errors import code_of, error_content, path_of, status_of

MEDIA_TYPE: Final = "text/event-stream"
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # proxies must not collect events
_LOG: Final = logging.getLogger("pointsman.serving")


def event(data: Mapping[str, Any] | str, name: str | None = None) -> bytes:
    """One event.

    Args:
        data: A JSON object, or text of one line.
        name: Its type; unnamed where None.
    """
    text = data if isinstance(data, str) else json.dumps(data, allow_nan=False, separators=(",", ":"))
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {text}\n\n".encode()


def stream_of(request: Request, events: AsyncIterator[bytes], *, error_name: str | None = None) -> StreamingResponse:
    """The answer that streams events.

    Args:
        request: What is answered.
        events: As `event` makes them. What they raise becomes the last event, since the status is sent by then.
        error_name: That event's type.
    """
    return StreamingResponse(_ending(request, events, error_name), media_type=MEDIA_TYPE, headers=_HEADERS)


async def _ending(request: Request, events: AsyncIterator[bytes], error_name: str | None) -> AsyncIterator[bytes]:
    try:
        async for one in events:
            yield one
    except Exception as error:  # noqa: BLE001 - whatever it is, the client must see the end
        status, message, _ = status_of(error)
        if status == 500:
            _LOG.exception("stream failed", extra={"request_id": request.state.request_id})
        yield event(error_content(path_of(request.scope), status, message, code=code_of(error)), error_name)
