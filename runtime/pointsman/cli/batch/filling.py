"""Lines to records: filled with others of about their length, and given in order, each when all before it are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Final, Protocol

from pointsman.cli.batch.ahead import Record
from pointsman.cli.batch.reading import Line
from pointsman.decoding import DecodingFields
from pointsman.errors import TextError
from pointsman.infill import Fill, Infiller
from pointsman.infill.outcomes import outcomes_in_groups, request_of
from pointsman.infill.requests import Request

_BATCHES_AHEAD: Final = 16


class Waiting(Protocol):
    """Who keeps records that wait for an earlier line's."""

    def kept(self) -> Mapping[int, Record]:
        """Those of the lines just read that an earlier run has kept, by their numbers."""

    def keep(self, records: Sequence[Record]) -> None:
        """Keep what is filled, until it is given."""


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

    def records(self, lines: Iterator[Line], answered: int, waiting: Waiting) -> Iterator[Record]:
        """A record for each line that has none, in order.

        Lines are read and filled together as in a run without an interruption, so that records are the same to the
        last digit.

        Args:
            lines: All there are.
            answered: How many of them have records.
            waiting: Keeps what is filled before a line that stands before it.

        Raises:
            TextError: A line cannot be filled, unless such lines are skipped; those before it were given.
        """
        lines = islice(lines, answered - answered % self.together, None)
        while window := list(islice(lines, self.together)):
            yield from _Window(self, window, answered, waiting).records()

    def asked(self, line: Line) -> Request | str | None:
        """What a line asks for; None if it is empty; or why it cannot be filled."""
        return line.error or request_of(self.infiller, line.text, line.number - 1, self.decoding)

    def record(self, line: Line, outcome: Sequence[Fill] | str) -> Record:
        """What comes of a line.

        Raises:
            TextError: It cannot be filled, and such lines are not skipped.
        """
        head = {"line": line.number, **line.given}
        if not isinstance(outcome, str):
            return head | {"fills": [asdict(fill) for fill in outcome]}
        if self.skip:
            return head | {"error": outcome}
        raise TextError(f"line {line.number}: {outcome}; to go on after such lines, add --on-error skip")


class _Window:
    """Lines that are read together, and what has come of them so far."""

    def __init__(self, filling: Filling, lines: Sequence[Line], answered: int, waiting: Waiting) -> None:
        """Ask for what the lines hold; nothing is filled yet."""
        self._filling, self._waiting = filling, waiting
        asked = [filling.asked(line) for line in lines]
        self._wanted = [line for line, one in zip(lines, asked, strict=True) if isinstance(one, Request)]
        self._unanswered = [line for line in lines if line.number > answered]
        self._kept = waiting.kept()
        self._outcomes: dict[int, Sequence[Fill] | str] = {
            line.number: one or () for line, one in zip(lines, asked, strict=True) if not isinstance(one, Request)
        }
        done = {
            place for place, line in enumerate(self._wanted) if line.number <= answered or line.number in self._kept
        }
        requests = [one for one in asked if isinstance(one, Request)]
        self._groups = outcomes_in_groups(filling.infiller, requests, filling.batch_size, done=done)

    def records(self) -> Iterator[Record]:
        """Of the lines that have none, in order."""
        for line in self._unanswered:
            while self._is_open(line):
                self._fill_more()
            yield self._kept.get(line.number) or self._filling.record(line, self._outcomes[line.number])

    def _is_open(self, line: Line) -> bool:
        return line.number not in self._kept and line.number not in self._outcomes

    def _fill_more(self) -> None:
        """Fill a group, and have those kept that come behind a line that is not filled yet."""
        group = [(self._wanted[place], outcome) for place, outcome in next(self._groups).items()]
        self._outcomes |= {line.number: outcome for line, outcome in group}
        first = next((line.number for line in self._unanswered if self._is_open(line)), None)
        if first is not None:
            self._waiting.keep(
                [
                    self._filling.record(line, outcome)
                    for line, outcome in group
                    if line.number > first and line.number not in self._kept and not isinstance(outcome, str)
                ]
            )
