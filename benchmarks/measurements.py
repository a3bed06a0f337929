"""JSON files of measurements: what was measured, on what, with which versions, and every raw sample."""

import argparse
import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import machine

RESULTS = Path(__file__).parent / "results"
BUILD = Path(__file__).parents[1] / "build" / "benchmarks"


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise about a measurement.

    Attributes:
        name: what is measured.
        value: what was measured.
        limit: what it is held to.
        at_least: whether `limit` is the lowest allowed value; else the highest.
    """

    name: str
    value: float
    limit: float
    at_least: bool

    @property
    def held(self) -> bool:
        """Whether the promise is kept."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def to_json(self) -> dict[str, Any]:
        """For the file of the measurement."""
        kind = "at_least" if self.at_least else "at_most"
        return {"name": self.name, "value": round(self.value, 3), kind: self.limit, "held": self.held}


def parser(description: str, *, folder: str | None = None) -> argparse.ArgumentParser:
    """What every script is told: where to write, and whether to be quick.

    Args:
        description: of the script.
        folder: name of the one that it works in and removes; None where it keeps what it makes.
    """
    made = argparse.ArgumentParser(description=description)
    if folder is not None:
        made.add_argument("--folder", type=Path, default=BUILD / folder, help="made, used and removed")
    made.add_argument("--output", type=Path, metavar="FILE", help="where to write the measurements")
    made.add_argument("--quick", action="store_true", help="tiny sizes: a smoke test that checks no bars")
    return made


def write(path: Path, started: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    """Write a measurement.

    Args:
        path: the file; its folder is made if it is not there.
        started: what `begin` said.
        body: settings, medians and raw samples.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**started, **body}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def begin() -> dict[str, Any]:
    """What is noted before anything runs: date, machine, versions."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": date, "machine": machine.describe(), "versions": machine.versions()}


def median_over_rounds(rounds: Sequence[Sequence[float]]) -> float:
    """The median of each round's median, so that a round that was disturbed counts once."""
    return median(median(samples) for samples in rounds)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns: the first flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, ["-" * width for width in widths], *rows):
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join([first.strip().ljust(widths[0]), *others]))


def print_bars(bars: Sequence[Bar]) -> bool:
    """Print whether each promise is kept, and return whether all are."""
    if not bars:
        print("no bars were checked")
        return True
    rows = [
        [
            bar.name,
            f"{bar.value:.2f}",
            f"{'>=' if bar.at_least else '<='} {bar.limit:g}",
            "met" if bar.held else "MISSED",
        ]
        for bar in bars
    ]
    print()
    print_table(["bar", "measured", "limit", ""], rows)
    return all(bar.held for bar in bars)
