"""Many texts of which some cannot be filled: each gives its fills, or the reason why there are none."""

import re
from collections.abc import Iterator, Sequence

from pointsman.decoding import DecodingFields
from pointsman.errors import PointsmanError
from pointsman.infill.infiller import Infiller
from pointsman.infill.requests import Request
from pointsman.infill.results import Fill


def request_of(infiller: Infiller, text: str, number: int, fields: DecodingFields) -> Request | str | None:
    """A text as a request; None where it is empty or blank; or why it is no request.

    Args:
        infiller: By what it is to be filled.
        text: What is to be filled.
        number: From which samples follow.
        fields: Decoding options.
    """
    if not text.strip():
        return None
    try:
        return infiller.request(text, number=number, **fields)
    except PointsmanError as error:
        return _reason(error)


def outcomes_of(infiller: Infiller, requests: Sequence[Request], batch_size: int) -> Iterator[list[Fill] | str]:
    """Fills of each request, in order, or why there are none; one that fails does not take others along.

    Args:
        infiller: By what they are filled.
        requests: What is asked.
        batch_size: The most to fill at once.
    """
    done = 0
    try:
        for fills in infiller.fill_requests(requests, batch_size):
            done += 1
            yield fills
    except PointsmanError:
        yield from (_alone(infiller, request) for request in requests[done:])


def _alone(infiller: Infiller, request: Request) -> list[Fill] | str:
    try:
        (fills,) = infiller.fill_requests([request], 1)
    except PointsmanError as error:
        return _reason(error)
    return fills


def _reason(error: PointsmanError) -> str:
    """Without the number that the text had where it was refused: callers say their own."""
    return re.sub(r"\binput \d+\b", "the text", str(error))
