"""`pointsman infill --input`: a file of texts, one record for each of its lines, which can be stopped and resumed.

Lines are read some at a time, filled with others of about their length, and answered in their order, each as soon as
all before it are. A record is written with a single call and flushed, so whatever happens to the process, the output
ends with a whole record or with the beginning of one, which resuming cuts off.
"""

import json
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

from pointsman.bundle.writing import one_sentence
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
        given: What comes back in the record: the `id` of a JSON object that has one.
        error: Why it is none of that.
    """

    number: int
    text: str
    given: Mapping[str, object] = field(default_factory=dict)
    error: str | None = None


def read_lines(stream: BinaryIO) -> Iterator[Line]:
    """The lines of a file: plain texts; or JSON objects with a `text`, if the first line that is not empty is one."""
    raw = (line.decode("utf-8", errors="surrogateescape").rstrip("\r\n") for line in stream)
    head: list[str] = []
    for line in raw:
        head.append(line if head else line.removeprefix("\ufeff"))
        if head[-1]:
            break
    first = _object(head[-1]) if head else None
    as_json = isinstance(first, dict) and "text" in first
    for number, line in enumerate(chain(head, raw), 1):
        yield _json_line(number, line) if as_json and line else Line(number, line)


def _object(line: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    """What a line of JSON holds; None where it is none."""
    try:
        return json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None


def _no_number(name: str) -> None:
    """NaN and infinities are Python's, and not JSON's."""
    raise ValueError(name)


def _json_line(number: int, line: str) -> Line:
    document = _object(line)
    if not isinstance(document, dict):
        return Line(number, "", error="the line is no JSON object, as the first one is")
    given = {"id": document["id"]} if "id" in document else {}
    text = document.get("text")
    if not isinstance(text, str):
        return Line(number, "", given, "the object has no text")
    return Line(number, text, given)


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

    def records(self, lines: Iterable[Line], answered: "Answered") -> Iterator[Record]:
        """A record for each line that has none, in order.

        The group of lines that the last answered one was in is filled again: so every record is to the last digit what
        it would be without an interruption, and another job's output is noticed.

        Args:
            lines: All there are.
            answered: Those that have records.

        Raises:
            PointsmanError: A line cannot be filled, unless such lines are skipped; those before it were given.
            OptionsError: The records are not of these lines and options.
        """
        together, last = BATCHES_AHEAD * self.batch_size, max(answered.count - 1, 0)
        lines, number = islice(lines, last - last % together, None), 0
        while window := list(islice(lines, together)):
            for line, outcome in zip(window, self._outcomes(window), strict=True):
                number = line.number
                record = self._record(line, outcome)
                if number > answered.count:
                    yield record
                elif number > answered.count - len(answered.last) and not answered.holds(record):
                    raise OptionsError(f"record {number} of --output is not of this input or not of these options")
        if number < answered.count:
            raise OptionsError(f"--output has {answered.count} records, and the input fewer lines")

    def _record(self, line: Line, outcome: list[Fill] | str) -> Record:
        head = {"line": line.number, **line.given}
        if not isinstance(outcome, str):
            return head | {"fills": [asdict(fill) for fill in outcome]}
        if self.skip:
            return head | {"error": outcome}
        raise TextError(f"line {line.number}: {outcome}")

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
        """A request; no fills of an empty line; or why the line is no request."""
        if line.error is not None:
            return line.error
        if not line.text:
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


@dataclass(frozen=True, slots=True)
class Answered:
    """The records that an output holds.

    Attributes:
        count: How many.
        last: The last of them.
    """

    count: int = 0
    last: Sequence[Record] = ()

    def holds(self, record: Record) -> bool:
        """Whether a record among the last is this one, scores aside: those of another machine differ in last digits."""
        held = self.last[record["line"] - self.count - 1]
        return _essence(held) == _essence(record)

    @classmethod
    def in_file(cls, output: Path, most: int) -> "Answered":
        """Read an output, and cut off a record at its end that was only begun.

        Args:
            output: A file that is there.
            most: How many records to remember.

        Raises:
            OptionsError: It holds something else, and is left as it is.
            OutputError: It cannot be read or written.
        """
        last: deque[Record] = deque(maxlen=most)
        count = whole = 0
        with one_sentence(output), output.open("rb+") as file:
            for line in file:
                begun = f'{{"line": {count + 1}'.encode()
                if not line.endswith(b"\n") and (begun.startswith(line) or line.startswith(begun)):
                    break
                record = _object(line.decode("utf-8", errors="replace"))
                if not isinstance(record, dict) or record.get("line") != count + 1:
                    raise OptionsError(f"{output} does not hold the records of this job; choose another --output")
                count, whole = count + 1, whole + len(line)
                last.append(record)
            file.truncate(whole)
        return cls(count, list(last))


def _essence(record: Record) -> object:
    """What two records of the same line have in common: all but scores."""
    fills = record.get("fills")
    texts = [fill.get("text") for fill in fills] if isinstance(fills, list) else None
    return record.get("line"), record.get("id"), record.get("error"), texts


def answered_in(output: Path | None, *, resume: bool, most: int) -> Answered:
    """What an output holds that is to be resumed; nothing where there is none.

    Raises:
        OptionsError: There is nothing that could be resumed.
        OutputExistsError: The output is there, and is not to be resumed.
        OutputError: It cannot be read.
    """
    if output is None and resume:
        raise OptionsError("--resume goes on with a file; say which with --output")
    if output is None or not output.exists():
        return Answered()
    if not resume:
        raise OutputExistsError(f"{output} exists; go on with it by --resume, or choose another --output")
    return Answered.in_file(output, most)


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
            self.terminal.write(f"\r{self.sentence}{self.left}\x1b[K")
            self.terminal.flush()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.shown:
            self.terminal.write("\r\x1b[K")

    @property
    def sentence(self) -> str:
        """How far the job is, and how fast."""
        seconds = max(time.perf_counter() - self.began, 1e-9)
        of = "" if self.total is None else f" of {self.total:,}"
        return f"{self.done + self.answered:,}{of} lines, {self.answered / seconds:,.1f} a second"

    @property
    def left(self) -> str:
        """How long the rest will take, where that can be known."""
        if self.total is None or not self.answered:
            return ""
        seconds = (time.perf_counter() - self.began) / self.answered * (self.total - self.done - self.answered)
        return f", {seconds:,.0f} s left"
