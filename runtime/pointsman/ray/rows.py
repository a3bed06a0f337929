"""Rows of Parquet files and of JSON lines: read in parts, told from others by a digest, written with more columns."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.parquet

from pointsman.bundle.writing import whole_file
from pointsman.errors import TextError
from pointsman.text.json_lines import check_beginning, object_of
from pointsman.wording import is_text

PARQUET: Final = ".parquet"
KINDS: Final = (PARQUET, ".jsonl")
_TYPES: Final[Mapping[type, Any]] = {str: pa.string(), float: pa.float64()}


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a file.

    Attributes:
        source: The file.
        first: Number of the first row, from 0.
        rows: How many.
        offset: Bytes before them in a file of lines; 0 of Parquet.
    """

    source: Path
    first: int
    rows: int
    offset: int


@dataclass(frozen=True, slots=True)
class NoText:
    """What a row has in the place of a text.

    Attributes:
        reason: What is wrong with it.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Column:
    """Values to be written beside those that are there.

    Attributes:
        name: Its own.
        kind: Of the values.
        values: One a row; None where there is none.
    """

    name: str
    kind: type[str] | type[float]
    values: Sequence[str | float | None]


class Rows(Protocol):
    """Rows that were read."""

    def texts(self, column: str) -> list[str | NoText]:
        """The text of each row; an empty one where a line is."""

    def taken(self, names: Sequence[str]) -> str | None:
        """The first of these names that a column has already."""

    def digest(self, rows: int | None = None) -> str:
        """SHA-256 of the first rows, or of all: the same whatever follows them, and however they are stored."""

    def write(self, target: Path, columns: Sequence[Column]) -> None:
        """Write them and further columns, whole or not at all.

        Raises:
            OutputError: The disk is full or refuses.
        """


def check_source(path: Path, column: str) -> None:
    """Refuse a file that cannot be read, or that has no texts.

    Raises:
        TextError: It is missing, of another kind, cannot be read, or has no such column.
    """
    if path.is_dir():
        kind = next((kind for kind in KINDS if any(path.glob(f"*{kind}"))), PARQUET)
        raise TextError(f"{path} is a folder; name its files, {' or '.join(KINDS)}, such as {path}/*{kind}")
    if path.suffix not in KINDS:
        raise TextError(
            f"{path} is neither {' nor '.join(KINDS)}; write it as one of them, or fill a file of lines with "
            f"`pointsman infill BUNDLE --input {path.name} --jsonl`"
        )
    if not path.is_file():
        raise TextError(f"{path} is not there; check the path")
    names = _column_names(path) if path.suffix == PARQUET else _keys_until(path, column)
    if names.count(column) > 1:
        raise TextError(f"{path} has {names.count(column)} columns {column}; give all but one another name")
    if names and column not in names:
        raise TextError(f"{path} has no column {column}; it has {', '.join(names)}; say which with `column`")


def parts_of(path: Path, rows: int) -> list[Part]:
    """A file in parts of so many rows; the last may have fewer.

    Raises:
        TextError: It cannot be read.
    """
    with _readable(path):
        if path.suffix == PARQUET:
            total, offsets = pa.parquet.read_metadata(path).num_rows, None
        else:
            total, offsets = _offsets(path, rows)
    return [
        Part(path, first, min(rows, total - first), offsets[number] if offsets else 0)
        for number, first in enumerate(range(0, total, rows))
    ]


def read_rows(part: Part) -> Rows:
    """Read a part of a file.

    Raises:
        TextError: The file cannot be read.
    """
    with _readable(part.source):
        return Table(_row_groups(part)) if part.source.suffix == PARQUET else Lines(_raw_lines(part))


class Lines:
    """JSON lines, of which any may be broken."""

    def __init__(self, raw: Sequence[bytes]) -> None:
        """Hold lines without their ends."""
        self._raw = raw

    @cached_property
    def _objects(self) -> list[dict[str, Any] | NoText]:
        return [_object(line) for line in self._raw]

    def texts(self, column: str) -> list[str | NoText]:
        """As `Rows` has it."""
        return [_text_of(line, document, column) for line, document in zip(self._raw, self._objects, strict=True)]

    def taken(self, names: Sequence[str]) -> str | None:
        """As `Rows` has it; one object is enough."""
        return next((name for name in names for document in self._objects if name in _known(document)), None)

    def digest(self, rows: int | None = None) -> str:
        """As `Rows` has it."""
        digest = hashlib.sha256()
        for line in self._raw[:rows]:
            digest.update(line + b"\n")
        return digest.hexdigest()

    def write(self, target: Path, columns: Sequence[Column]) -> None:
        """As `Rows` has it; of a line that is no object, the further columns are all there is."""
        with whole_file(target) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
            for number, document in enumerate(self._objects):
                file.write(_as_line(_known(document) | {column.name: column.values[number] for column in columns}))


class Table:
    """Rows of Parquet."""

    def __init__(self, table: "pa.Table") -> None:
        """Hold an Arrow table."""
        self._table = table

    def texts(self, column: str) -> list[str | NoText]:
        """As `Rows` has it."""
        return [_text("row", value, column) for value in map(_value, self._table.column(column))]

    def taken(self, names: Sequence[str]) -> str | None:
        """As `Rows` has it."""
        return next((name for name in names if name in self._table.column_names), None)

    def digest(self, rows: int | None = None) -> str:
        """As `Rows` has it: of values, since row groups and compression may differ where rows do not."""
        table = self._table.slice(0, rows)
        digest = hashlib.sha256(table.schema.to_string(show_schema_metadata=False).encode())
        try:
            for row in table.to_pylist():
                digest.update(repr(row).encode("utf-8", "surrogatepass") + b"\n")
        except (OverflowError, ValueError):  # a date or a text that Python cannot hold
            digest.update(_serialized(table))
        return digest.hexdigest()

    def write(self, target: Path, columns: Sequence[Column]) -> None:
        """As `Rows` has it."""
        table = self._table
        for column in columns:
            table = table.append_column(column.name, pa.array(column.values, _TYPES[column.kind]))
        with whole_file(target) as partial:
            pa.parquet.write_table(table, partial)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise TextError(f"{path} cannot be read ({reason}); check the file and its permissions") from error


def _column_names(path: Path) -> list[str]:
    with _readable(path):
        return list(pa.parquet.read_schema(path).names)


def _keys_until(path: Path, column: str) -> list[str]:
    """Keys of the objects of a file, read as far as one has the column."""
    keys: dict[str, None] = {}
    with _readable(path), path.open("rb") as file:
        for number, line in enumerate(file):
            bare = _bare(line, is_first=number == 0)
            if number == 0:
                _check_beginning(path, bare)
            keys |= dict.fromkeys(_known(_object(bare)))
            if column in keys:
                break
    return list(keys)


def _check_beginning(path: Path, line: bytes) -> None:
    try:
        check_beginning(line)
    except TextError as error:
        raise TextError(f"{path}, row 1: {error}") from None


def _offsets(path: Path, rows: int) -> tuple[int, list[int]]:
    """The number of lines, and where each part begins."""
    offsets, before, total = [], 0, 0
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if number % rows == 0:
                offsets.append(before)
            before, total = before + len(line), number + 1
    return total, offsets


def _raw_lines(part: Part) -> list[bytes]:
    with part.source.open("rb") as file:
        file.seek(part.offset)
        lines = islice(file, part.rows)
        return [_bare(line, is_first=part.first + number == 0) for number, line in enumerate(lines)]


def _bare(line: bytes, *, is_first: bool) -> bytes:
    """A line without its end, and without the mark that some programs begin a file with."""
    return (line.removeprefix(b"\xef\xbb\xbf") if is_first else line).rstrip(b"\r\n")


def _row_groups(part: Part) -> "pa.Table":
    """Rows of a Parquet file, of which only the row groups are read that have any of them."""
    with pa.parquet.ParquetFile(part.source) as file:
        groups: list[int] = []
        before = start = 0
        for group in range(file.num_row_groups):
            after = before + file.metadata.row_group(group).num_rows
            if after > part.first and before < part.first + part.rows:
                start = start if groups else before
                groups.append(group)
            before = after
        return file.read_row_groups(groups).slice(part.first - start, part.rows)


def _object(line: bytes) -> dict[str, Any] | NoText:
    """The JSON object of a line, or why it is none."""
    try:
        return object_of(line)
    except TextError as error:
        return NoText(str(error))


def _known(document: dict[str, Any] | NoText) -> dict[str, Any]:
    return {} if isinstance(document, NoText) else document


def _text_of(line: bytes, document: dict[str, Any] | NoText, column: str) -> str | NoText:
    if not line.strip():
        return ""
    if isinstance(document, NoText):
        return document
    return _text("object", document.get(column), column)


def _text(what: str, value: object, column: str) -> str | NoText:
    if isinstance(value, NoText):
        return value
    if value is None:
        return NoText(f"the {what} has no {column}")
    if not isinstance(value, str):
        return NoText(f"its {column} is no text but of type {type(value).__name__}")
    return value


def _value(scalar: "pa.Scalar") -> object:
    """As Python has it; NoText where it is text and no UTF-8, which Parquet does not check."""
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return NoText(f"its text is no UTF-8 ({error.reason} at byte {error.start + 1})")


def _serialized(table: "pa.Table") -> memoryview:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return memoryview(sink.getvalue())


def _as_line(row: Mapping[str, Any]) -> str:
    line = json.dumps(row, ensure_ascii=False)
    # Halves of a character, which JSON can write and UTF-8 cannot, stay escaped.
    return (line if is_text(line) else json.dumps(row)) + "\n"
