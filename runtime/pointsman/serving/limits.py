"""What a service takes from its clients, and for how long."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """Bounds that hold for every client; what is beyond them is refused, never cut.

    Attributes:
        body_bytes: Of a request's body.
        texts: In one request.
        characters: Of a text; it is refused before it is tokenized.
        candidates: To score in one request.
        seconds: Until the answer must be there, from when the request was taken.
        body_seconds: For the body to arrive.
        header_seconds: For the headers to arrive.
        send_seconds: For the client to take what it is sent, and in all, beyond `seconds`, what it asked for.
        drain_seconds: For what is in flight to be answered when the service stops.
        connections: Open at the same time.
    """

    body_bytes: int = 1 << 20
    texts: int = 64
    characters: int = 1 << 15
    candidates: int = 256
    seconds: float = 60.0
    body_seconds: float = 10.0
    header_seconds: float = 10.0
    send_seconds: float = 30.0
    drain_seconds: float = 30.0
    connections: int = 1024
