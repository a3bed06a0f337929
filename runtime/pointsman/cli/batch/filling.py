"""Lines to records: filled with others of about their length, and answered in order, each when all before it are."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Final

from pointsman.cli.batch.job import Record
from pointsman.cli.batch.reading import Line
from pointsman.decoding import DecodingFields
from pointsman.errors import TextError
from pointsman.infill import Fill, Infiller
from pointsman.infill.outcomes import outcomes_of, request_of
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
        """Fills, none of an empty text; or why there are none."""
        asked = [self._asked(line) for line in window]
        requests = [request for request in asked if isinstance(request, Request)]
        filled = outcomes_of(self.infiller, requests, self.batch_size)
        for request in asked:
            yield next(filled) if isinstance(request, Request) else request or []

    def _asked(self, line: Line) -> Request | str | None:
        return line.error or request_of(self.infiller, line.text, line.number - 1, self.decoding)
