"""What each shard was made from, written beside the shards, so that rows that have changed since are noticed."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

from pointsman.bundle.writing import one_sentence, whole_file
from pointsman.ray.rows import Rows

_FOLDER: Final = "_made-from"  # readers of folders of Parquet pass over what begins so


@dataclass(frozen=True, slots=True)
class Origin:
    """The rows that a shard was made from.

    Attributes:
        rows: How many.
        sha256: Their digest.
        bad: How many of them could not be filled.
    """

    rows: int
    sha256: str
    bad: int


class State(Enum):
    """How a shard stands to the rows that are there now."""

    ABSENT = auto()  # or it was not finished, or has bad rows and may not have any
    MADE = auto()
    GROWN = auto()  # others have come behind its own
    CHANGED = auto()


def remember(target: Path, origin: Origin) -> None:
    """Write down what a shard was made from, once it is there.

    In this order, so that a run that is killed between the two makes the shard again; what an old record says of a new
    shard leads to the same.

    Raises:
        OutputError: It cannot be written.
    """
    path = _record(target)
    with one_sentence(path):
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as partial:
            partial.write_text(json.dumps(asdict(origin)), encoding="utf-8")


def state_of(target: Path, rows: int, read: Callable[[], Rows], *, skip: bool) -> State:
    """Compare a shard with its rows.

    Args:
        target: Its file.
        rows: How many there are now.
        read: Reads them.
        skip: Whether some of them may have no fill.

    Raises:
        TextError: They cannot be read.
    """
    origin = _origin(target)
    if origin is None or not target.exists():
        return State.ABSENT
    if origin.rows > rows or read().digest(origin.rows) != origin.sha256:
        return State.CHANGED
    if origin.rows < rows:
        return State.GROWN
    return State.MADE if skip or not origin.bad else State.ABSENT


def bad_rows_of(target: Path) -> int:
    """How many rows of a shard could not be filled; 0 where that is not known."""
    origin = _origin(target)
    return origin.bad if origin else 0


def forget(target: Path) -> None:
    """Remove a shard and what is known of it.

    Raises:
        OutputError: They cannot be removed.
    """
    with one_sentence(target):
        _record(target).unlink(missing_ok=True)
        target.unlink(missing_ok=True)


def _record(target: Path) -> Path:
    return target.parent / _FOLDER / f"{target.name}.json"


def _origin(target: Path) -> Origin | None:
    """What was written down; None where nothing was, or something else."""
    try:
        return Origin(**json.loads(_record(target).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
