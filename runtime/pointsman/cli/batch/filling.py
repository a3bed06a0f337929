"""Lines to records: filled with others of about their length, and answered in order, each when all before it are."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Final

from pointsman.cli.batch.job import Record
from pointsman.cli.batch.reading import Line
from pointsman.decoding import DecodingFields
from pointsman.errors import PointsmanError, TextError
from pointsman.infill import Fill, Infiller
from pointsman.infill.requests import Request

_BATCHES_AHEAD: Final = 16


@dataclass(frozen=True, slots=True)
class Filling:
    """How lines are filled.

    Attributes:
        infiller: By what.
        batch_size: The most texts to fill at once.
        decoding: Options that all share.
        skip: Whether a line that cannot be filled gives a record that says why, or ends the job.
    """

    infiller: Infiller
    batch_size: int
    decoding: DecodingFields
    skip: bool

    @property
    def together(self) -> int:
        """Lines that are read together, to find texts of one length; a line alone need not wait for others."""
        return 1 if self.batch_size == 1 else _BATCHES_AHEAD * self.batch_size

    def records(self, lines: Iterator[Line], answered: int) -> Iterator[Record]:
        """A record for each line that has none, in order.

        Lines are read together as in a run without an interruption, so that records are the same to the last digit.

        Args:
            lines: All there are.
            answered: How many of them have records.

        Raises:
            TextError: A line cannot be filled, unless such lines are skipped; those before it were given.
        """
        lines = islice(lines, answered - answered % self.together, None)
        while window := list(islice(lines, self.together)):
            for line, outcome in zip(window, self._outcomes(window), strict=True):
                if line.number > answered:
                    yield self._record(line, outcome)

    def _record(self, line: Line, outcome: list[Fill] | str) -> Record:
        head = {"line": line.number, **line.given}
        if not isinstance(outcome, str):
            return head | {"fills": [asdict(fill) for fill in outcome]}
        if self.skip:
            return head | {"error": outcome}
        raise TextError(f"line {line.number}: {outcome}; to go on after such lines, add --on-error skip")

    def _outcomes(self, window: Sequence[Line]) -> Iterator[list[Fill] | str]:
        """Fills, or why there are none."""
        asked = [self._asked(line) for line in window]
        filled = self._filled([request for request in asked if isinstance(request, Request)])
        for request in asked:
            yield next(filled) if isinstance(request, Request) else request

    def _filled(self, requests: Sequence[Request]) -> Iterator[list[Fill] | str]:
        done = 0
        try:
            for fills in self.infiller.fill_requests(requests, self.batch_size):
                done += 1
                yield fills
        except PointsmanError:
            # One of them failed, and must not take the others along.
            yield from (self._alone(request) for request in requests[done:])

    def _asked(self, line: Line) -> Request | list[Fill] | str:
        """A request; no fills of an empty text; or why the line is no request."""
        if line.error is not None:
            return line.error
        if not line.text.strip():
            return []
        try:
            return self.infiller.request(line.text, number=line.number - 1, **self.decoding)
        except PointsmanError as error:
            return _of_line(error)

    def _alone(self, request: Request) -> list[Fill] | str:
        try:
            (fills,) = self.infiller.fill_requests([request], 1)
        except PointsmanError as error:
            return _of_line(error)
        return fills


def _of_line(error: PointsmanError) -> str:
    """What is wrong, without the number that the text had where it was refused: the line's number is said."""
    return re.sub(r"\binput \d+\b", "the text", str(error))
