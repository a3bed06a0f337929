"""What was counted of parts of a corpus: added up to what is counted of the whole, and kept in files meanwhile."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pointsman.bundle.records import from_json, to_json
from pointsman.bundle.writing import whole_file
from pointsman.errors import OutputError
from pointsman_calib.comparison.measuring.teacher_forcing import Counted

Counts = dict[str, Counted]
"""What was counted of each candidate, by its name."""

PART: Final = 64
"""Documents of a part, where nothing else is said."""


def added_up(parts: Iterable[Counts]) -> Counts:
    """Of all parts, which come in the order of their documents, one after the other; the first is added to."""
    remaining = iter(parts)
    whole = next(remaining)
    for part in remaining:
        for name, counted in whole.items():
            counted.merge(part[name])
    return whole


def write_counts(path: Path, counts: Counts) -> None:
    """Write a file, whole or not at all.

    Raises:
        OutputError: the disk is full or refuses.
    """
    with whole_file(path) as partial:
        partial.write_text(json.dumps(to_json(counts), allow_nan=False), encoding="utf-8")


def read_counts(path: Path) -> Counts:
    """Read it again.

    Raises:
        OutputError: it is damaged.
    """
    try:
        counts, problems = from_json(Counts, json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        counts, problems = None, [str(error)]
    if counts is None:
        raise OutputError(f"{path} is damaged ({problems[0]}); remove it and compare again")
    return counts
