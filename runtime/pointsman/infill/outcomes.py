"""Many texts of which some cannot be filled: each gives its fills, or the reason why there are none."""

import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

from pointsman.decoding import DecodingFields
from pointsman.errors import PointsmanError
from pointsman.infill.infiller import Infiller
from pointsman.infill.requests import Request, in_order
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
    return in_order(outcomes_in_groups(infiller, requests, batch_size))


def outcomes_in_groups(
    infiller: Infiller, requests: Sequence[Request], batch_size: int, *, done: AbstractSet[int] = frozenset()
) -> Iterator[dict[int, list[Fill] | str]]:
    """The same of each group of requests by their places, without waiting for those before it.

    Args:
        infiller: By what they are filled.
        requests: What is asked.
        batch_size: The most to fill at once.
        done: Places of requests that need not be filled.
    """
    left = set(range(len(requests))) - done
    try:
        for group in infiller.fill_groups(requests, batch_size, done=done):
            left -= group.keys()
            yield {**group}
    except PointsmanError:
        yield from ({place: _alone(infiller, requests[place])} for place in sorted(left))


def _alone(infiller: Infiller, request: Request) -> list[Fill] | str:
    try:
        (fills,) = infiller.fill_requests([request], 1)
    except PointsmanError as error:
        return _reason(error)
    return fills


def _reason(error: PointsmanError) -> str:
    """Without the number that the text had where it was refused: callers say their own."""
    return re.sub(r"\binput \d+\b", "the text", str(error))
