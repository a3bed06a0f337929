"""The records of a job, and beside them `OUTPUT.job`, which says how it was begun and which lines it has answered.

The job's first line is JSON: bundle, variant and options. Then comes a digest for each line of the input that was read,
of one length, written before the record of that line. So each record has its digest however the process ends. Behind
the digests of all lines that were read stand records that wait for an earlier line's (`ahead.py`), until more lines are
read. The next run takes these if it reads the same lines together, and cuts off what was only begun.
"""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from pointsman.bundle.writing import locked, resolved, what_to_do, whole_file
from pointsman.cli.batch.ahead import DIGEST, DIGEST_LINE, Ahead, Record, as_lines
from pointsman.cli.batch.reading import Line
from pointsman.cli.output import write_whole
from pointsman.errors import OptionsError, OutputError, OutputExistsError, PointsmanError
from pointsman.wording import as_text

Settings = Mapping[str, Any]
"""What makes records what they are: the bundle, and options by their flags."""

BUNDLE: Final = "bundle"
VARIANT: Final = "--variant"
LINES: Final = "lines"
"""As what lines are taken: `--plain` or `--objects`, given or not; None as long as all are empty."""
SEED: Final = "--seed"
DRAWN: Final = "drawn"
"""In the place of a seed that is not given, where one is needed."""
_FORMAT: Final = "pointsman infill job"
_VERSION: Final = 2  # the first did not know what the checkpoint says of generating


class Job:
    """Records in a file, of which those before this run stay.

    Attributes:
        settings: How it was begun; a seed is drawn where it needs one.
        count: Records there before.
        failed: Of those, the ones that say why a line cannot be filled.
    """

    def __init__(self, path: Path, output: BinaryIO, beside: BinaryIO, settings: Settings) -> None:
        """Take open files; `opened` opens them."""
        self.settings = settings
        self._path, self._output, self._beside = path, output, beside
        self._pending, self._ahead, self._digests = bytearray(), Ahead(), 0
        self.count = self.failed = 0

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path, settings: Settings, *, resume: bool) -> Iterator[Self]:
        """Begin a job, or go on with one, as the only process that does.

        Args:
            path: Where the records go.
            settings: How this run makes them.
            resume: Whether a job that is there may be gone on with.

        Raises:
            OutputExistsError: There is one, and it may not.
            OptionsError: It is another's, of other settings, or another process is at it.
            OutputError: It cannot be read or written.
        """
        check(path, resume=resume)
        with contextlib.ExitStack() as stack:
            with _refusals(path):
                output = stack.enter_context(path.open("r+b" if resume and path.exists() else "xb", buffering=0))
                _lock(path, stack)
                beside = beside_of(path)
                if path.stat().st_size == 0:
                    settings = _begin(beside, settings)
                settings = _compared(path, beside, settings)
                job = cls(path, output, stack.enter_context(beside.open("r+b", buffering=0)), settings)
                job._go_on()
            yield job
            job._end()

    def _go_on(self) -> None:
        """Cut off what a run that ended anyhow had only begun."""
        with self._path.open("rb") as records:
            whole = self._count(records)
        self._digests = len(self._beside.readline()) + self.count * DIGEST_LINE
        if self._beside.seek(0, os.SEEK_END) < self._digests:
            raise OptionsError(
                f"{_beside_name(self._path)} has fewer lines than {as_text(self._path)} has records; choose another "
                "--output"
            )
        self._output.truncate(whole)
        self._output.seek(whole)
        self._beside.seek(self._digests)
        self._ahead = Ahead.read(self._beside.read())

    def _count(self, records: BinaryIO) -> int:
        """Count whole records; returns the bytes that they take."""
        whole = 0
        for line in records:
            begun = f'{{"line": {self.count + 1}'.encode()
            if not line.endswith(b"\n") and (begun.startswith(line) or line.startswith(begun)):
                break
            record = _parsed(line)
            if not line.endswith(b"\n") or not isinstance(record, dict) or record.get("line") != self.count + 1:
                raise OptionsError(
                    f"{as_text(self._path)} does not hold the records of this job; choose another --output"
                )
            self.count, whole = self.count + 1, whole + len(line)
            self.failed += "error" in record
        return whole

    def matched(self, lines: Iterable[Line]) -> Iterator[Line]:
        """The lines of the input, those that have records compared with the lines that these answer.

        Raises:
            OptionsError: One is another line, or there are too few.
        """
        number = 0
        with beside_of(self._path).open("rb") as answered:
            answered.readline()
            for line in lines:
                number, digest = line.number, _digest(line)
                if number > self.count:
                    self._pending += digest
                elif answered.read(DIGEST_LINE) != digest:
                    raise OptionsError(
                        f"line {number} of the input has changed since {as_text(self._path)} answered it; give the "
                        "input as it was (lines that are not yet answered may change), or choose another --output"
                    )
                yield line
        if number < self.count:
            raise OptionsError(
                f"the input has {number:,} lines, and {as_text(self._path)} has answered {self.count:,}; give the "
                "input as it was (it may grow), or choose another --output"
            )

    def kept(self) -> Mapping[int, Record]:
        """What an earlier run has filled of the lines just read, if it had read the same ones together; asked once."""
        ahead, self._ahead = self._ahead, Ahead()
        if not self._pending or self._pending != ahead.digests:
            return {}
        self._pending.clear()
        self._beside.seek(self._digests + ahead.size)
        self._beside.truncate()
        self._digests += len(ahead.digests)
        return {number: record for number, record in ahead.records.items() if number > self.count}

    def keep(self, records: Sequence[Record]) -> None:
        """Write down records that wait for an earlier line's.

        Raises:
            OutputError: They cannot be written.
        """
        with self._writing():
            self._write_digests()
            write_whole(self._beside, as_lines(records))

    def write(self, record: Record) -> None:
        """Write a record, after the digests of the lines that were read.

        Raises:
            OutputError: It cannot be written.
        """
        with self._writing():
            self._write_digests()
            write_whole(self._output, as_lines([record]))

    def _write_digests(self) -> None:
        """In the place of records that have waited."""
        if self._pending:
            self._cut_off()
            write_whole(self._beside, self._pending)
            self._digests += len(self._pending)
            self._pending.clear()

    def _cut_off(self) -> None:
        self._beside.truncate(self._digests)
        self._beside.seek(self._digests)

    def _end(self) -> None:
        """Nothing waits any more."""
        with self._writing():
            self._cut_off()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"cannot write {as_text(self._path)} ({error.strerror}); free some space, then go on with --resume"
            ) from error


def check(path: Path, *, resume: bool) -> None:
    """Refuse, before anything is loaded, what can be refused by then.

    Raises:
        OutputExistsError: There is an output, and it is not to be gone on with.
        OptionsError: It is no file, or another process writes it.
        OutputError: There is no folder for it.
    """
    with _refusals(path):
        if path.is_dir():
            raise OptionsError(f"{as_text(path)} is a folder; name a file in it")
        if path.exists() and not path.is_file():
            raise OptionsError(f"{as_text(path)} is no file; choose a file, or leave out --output to write to stdout")
        if not path.exists() and not resolved(path).parent.is_dir():
            raise OutputError(f"there is no folder {as_text(path.parent)}; make it, or choose another --output")
        if path.exists():
            with contextlib.ExitStack() as stack:
                _lock(path, stack)
            if not resume:
                raise OutputExistsError(
                    f"{as_text(path)} exists; go on with it by --resume, or choose another --output"
                )


def beside_of(path: Path) -> Path:
    """Where it is written how the records of an output are made."""
    place = resolved(path)
    return place.with_name(f"{place.name}.job")


def _beside_name(path: Path) -> str:
    return as_text(beside_of(path).name)


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What the disk refuses, as one sentence."""
    try:
        yield
    except PointsmanError:
        raise
    except FileExistsError as error:
        raise OutputExistsError(f"{as_text(path)} exists; choose another --output") from error
    except OSError as error:
        advice = what_to_do(error).replace("output folder", "--output")
        raise OutputError(f"cannot write {as_text(path)} ({error.strerror or error}); {advice}") from error


def _lock(path: Path, stack: contextlib.ExitStack) -> None:
    """Be the only process that writes an output, where the file system has locks."""
    try:
        stack.enter_context(locked(path))
    except BlockingIOError:
        raise OptionsError(
            f"another process is writing {as_text(path)}; wait for it, or choose another --output"
        ) from None
    except OSError:
        return  # no locks here


def _begin(beside: Path, settings: Settings) -> Settings:
    """Write down how a job is begun."""
    if beside.exists() and _read(beside) is None:
        raise OptionsError(f"{as_text(beside)} is there and is no job of this command; choose another --output")
    if settings[SEED] == DRAWN:
        settings = {**settings, SEED: secrets.randbits(32)}
    header = json.dumps({_FORMAT: _VERSION, **settings})
    with whole_file(beside) as partial:
        partial.write_text(f"{header}\n", encoding="utf-8")
    return settings


def _compared(path: Path, beside: Path, settings: Settings) -> Settings:
    """How a job was begun, which must be how this run goes on.

    Raises:
        OptionsError: It differs, or is not known.
    """
    begun = _read(beside)
    if begun is None:
        raise OptionsError(
            f"{as_text(path)} has no {_beside_name(path)} beside it, which says how it was begun; begin anew with "
            "another --output"
        )
    if settings[SEED] == DRAWN and begun.get(SEED) is not None:
        settings = {**settings, SEED: begun[SEED]}
    if None in (settings[LINES], begun.get(LINES)):
        settings = {**settings, LINES: begun.get(LINES)}
    names = [name for name in {**begun, **settings} if begun.get(name) != settings.get(name)]
    if VARIANT in names and BUNDLE in names:
        names.remove(BUNDLE)  # its digest is that of the variant's files
    if names:
        was, now = (" and ".join(_said(name, one.get(name)) for name in names) for one in (begun, settings))
        raise OptionsError(
            f"{as_text(path)} was begun with {was}, and this run has {now}; give what it was begun with, or choose "
            "another --output"
        )
    return settings


def _read(beside: Path) -> Record | None:
    """The first line of a job's file; None where there is none, or it is none."""
    if not beside.is_file():
        return None
    with beside.open("rb") as file:
        found = _parsed(file.readline())
    if not isinstance(found, dict) or found.pop(_FORMAT, None) != _VERSION:
        return None
    return found


def _said(name: str, value: object) -> str:
    if name == LINES:
        return str(value)
    if not name.startswith("--"):
        return f"{name} {value}"
    if value is None or value is False:
        return f"no {name}"
    return name if value is True else f"{name} {value}"


def _parsed(line: bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _digest(line: Line) -> bytes:
    return hashlib.blake2b(line.raw, digest_size=DIGEST).hexdigest().encode() + b"\n"
