"""`pointsman infill --input`: a file of texts, one record for each of its lines, which can be stopped and resumed.

Lines are read some at a time, filled with others of about their length, and answered in their order. A record is
written with a single call and flushed, so whatever happens to the process, the output ends with a whole record or
with the beginning of one, which resuming cuts off.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

from pointsman.decoding import DecodingFields
from pointsman.errors import OptionsError, OutputExistsError, PointsmanError, TextError
from pointsman.infill import Fill, Infiller
from pointsman.infill.requests import Request

BATCHES_AHEAD: Final = 16  # that are read together, to find texts of one length
_TICK: Final = 0.5  # seconds between two messages on a terminal

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the input.

    Attributes:
        number: From 1.
        text: To be filled; empty where the line is.
        id: What the line says of itself, if it is JSON.
        error: Why it is none of that.
    """

    number: int
    text: str
    id: object = None
    error: str | None = None


def read_lines(stream: BinaryIO) -> Iterator[Line]:
    """The lines of a file: plain texts; or JSON objects with a `text`, if the first line that is not empty is one."""
    raw = (line.decode("utf-8", errors="surrogateescape").rstrip("\r\n") for line in stream)
    head: list[str] = []
    for line in raw:
        head.append(line)
        if line:
            break
    as_json = bool(head) and isinstance(_object(head[-1]), dict) and "text" in (_object(head[-1]) or {})
    for number, line in enumerate(chain(head, raw), 1):
        yield _json_line(number, line) if as_json and line else Line(number, line)


def _object(line: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return json.loads(line)
    except ValueError:
        return None


def _json_line(number: int, line: str) -> Line:
    document = _object(line)
    if not isinstance(document, dict):
        return Line(number, "", error="the line is no JSON object, as the first one is")
    text = document.get("text")
    if not isinstance(text, str):
        return Line(number, "", document.get("id"), error="the object has no text")
    return Line(number, text, document.get("id"))


@dataclass(frozen=True, slots=True)
class Job:
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

    def records(self, lines: Iterable[Line], done: int = 0) -> Iterator[Record]:
        """A record for each line, in order.

        Args:
            lines: All there are.
            done: How many need none. Those that were filled with the first that does are filled with it again, so
                that its record is to the last digit what it would have been.

        Raises:
            PointsmanError: A line cannot be filled, unless such lines are skipped; those before it were given.
        """
        together = BATCHES_AHEAD * self.batch_size
        lines = islice(lines, done - done % together, None)
        while window := list(islice(lines, together)):
            for line, outcome in zip(window, self._outcomes(window), strict=True):
                if line.number <= done:
                    continue
                head = {"line": line.number} | ({} if line.id is None else {"id": line.id})
                if not isinstance(outcome, str):
                    yield head | {"fills": [asdict(fill) for fill in outcome]}
                elif self.skip:
                    yield head | {"error": outcome}
                else:
                    raise TextError(f"line {line.number}: {outcome}")

    def _outcomes(self, window: Sequence[Line]) -> list[list[Fill] | str]:
        """Fills, or why there are none."""
        asked = [self._asked(line) for line in window]
        requests = [request for request in asked if isinstance(request, Request)]
        try:
            fills: Iterator[list[Fill] | str] = iter(self.infiller.fill_requests(requests, self.batch_size))
        except PointsmanError:
            fills = iter([self._alone(request) for request in requests])
        return [next(fills) if isinstance(request, Request) else request for request in asked]

    def _asked(self, line: Line) -> Request | list[Fill] | str:
        """A request; no fills of an empty line; or why the line is no request."""
        if line.error is not None:
            return line.error
        if not line.text:
            return []
        try:
            return self.infiller.request(line.text, number=line.number - 1, **self.decoding)
        except PointsmanError as error:
            return str(error)

    def _alone(self, request: Request) -> list[Fill] | str:
        """The outcome of a request that was filled with others, one of which failed."""
        try:
            (fills,) = self.infiller.fill_requests([request], 1)
        except PointsmanError as error:
            return str(error)
        return fills


def done_before(output: Path) -> int:
    """How many lines an interrupted job has answered; the beginning of a record at the end is cut off.

    Raises:
        OptionsError: The file holds something else.
    """
    whole = done = 0
    with output.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            record = _object(line.decode("utf-8", errors="replace"))
            if not isinstance(record, dict) or record.get("line") != done + 1:
                raise OptionsError(f"{output} does not hold the records of this job; choose another --output")
            done, whole = done + 1, whole + len(line)
        file.truncate(whole)
    return done


def opened(output: str | None, *, resume: bool) -> tuple[TextIO, int]:
    """Where records go, and how many are there.

    Raises:
        OptionsError: There is nothing that could be resumed.
        OutputExistsError: The output is there, and is not to be resumed.
    """
    if output is None:
        if resume:
            raise OptionsError("--resume goes on with a file; say which with --output")
        return sys.stdout, 0
    path = Path(output)
    if not resume and path.exists():
        raise OutputExistsError(f"{path} exists; go on with it by --resume, or choose another --output")
    done = done_before(path) if path.exists() else 0
    return path.open("a", encoding="utf-8", errors="surrogateescape"), done


@dataclass(slots=True)
class Progress:
    """What is said of a job on a terminal while it runs.

    Attributes:
        total: Lines in all, where that can be known.
        done: Lines that were answered before.
        terminal: Where.
        began: When.
    """

    total: int | None
    done: int
    terminal: TextIO
    answered: int = 0
    began: float = field(default_factory=time.perf_counter)
    shown: float = 0.0

    def count(self) -> None:
        """Count a line."""
        self.answered += 1
        now = time.perf_counter()
        if self.terminal.isatty() and now - self.shown > _TICK:
            self.shown = now
            self.terminal.write(f"\r{self.sentence}\x1b[K")
            self.terminal.flush()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.shown:
            self.terminal.write("\r\x1b[K")

    @property
    def sentence(self) -> str:
        """How far the job is, how fast, and how long the rest will take."""
        seconds = max(time.perf_counter() - self.began, 1e-9)
        rate, reached = self.answered / seconds, self.done + self.answered
        if self.total is None:
            return f"{reached:,} lines, {rate:,.1f} a second"
        left = (self.total - reached) / rate if rate else 0.0
        return f"{reached:,} of {self.total:,} lines, {rate:,.1f} a second, {left:,.0f} s left"
