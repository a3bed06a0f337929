"""What a contest measured: every round of every contestant, and tables of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import measurements
from cases import Case
from contestants.job import Job

REFERENCE, FLOOR = "transformers float32", "dense floor"
STEPS = ("greedy", "first token")
"""Two cases that differ in nothing but steps of one row."""


@dataclass(frozen=True, slots=True)
class Measured:
    """All rounds of one contestant.

    Attributes:
        job: what its process was asked to do.
        rounds: what its process printed, round by round.
        bytes: that it takes on disk.
    """

    job: Job
    rounds: list[dict[str, Any]]
    bytes: int

    def seconds(self, case: str) -> float:
        """Of one request: the median over rounds. Where the encoder cannot run alone, a step is taken off."""
        return self._middle(case) - self._step_beside(case)

    def step_seconds(self) -> float | None:
        """Of a step of one row: the mean over those of a request; None where the cases for it were not measured."""
        names = {case.name: case for case in self.job.cases}
        if not names.keys() >= set(STEPS):
            return None
        more = names["greedy"].new_tokens - names["first token"].new_tokens
        return (self._middle("greedy") - self._middle("first token")) / more

    def tokens(self, case: str) -> list[list[int]]:
        """What it generated."""
        tokens: list[list[int]] = self.rounds[0]["cases"][case]["tokens"]
        return tokens

    def routing(self, case: str) -> dict[str, float]:
        """How its tokens spread over the experts; empty where that was not observed."""
        routing: dict[str, float] = self.rounds[0]["cases"][case].get("routing", {})
        return routing

    @property
    def load_seconds(self) -> float:
        """The median over rounds."""
        return measurements.median_over_rounds([[measured["load_seconds"]] for measured in self.rounds])

    @property
    def peak_bytes(self) -> float:
        """Of a process that does all cases: the median over rounds."""
        return measurements.median_over_rounds([[measured["peak_bytes"]] for measured in self.rounds])

    @property
    def first_peak_bytes(self) -> float:
        """Of a fresh process that does the first case alone: the median over rounds."""
        first = self.job.cases[0].name
        return measurements.median_over_rounds([[measured["cases"][first]["peak_bytes"]] for measured in self.rounds])

    def to_json(self) -> dict[str, Any]:
        """Medians and raw samples."""
        return {
            "bytes": self.bytes,
            "load_seconds": self.load_seconds,
            "peak_bytes": self.peak_bytes,
            "first_peak_bytes": self.first_peak_bytes,
            "step_seconds": self.step_seconds(),
            "raw_load_seconds": [measured["load_seconds"] for measured in self.rounds],
            "cases": {
                case.name: {
                    "seconds": self.seconds(case.name),
                    "step_taken_off_seconds": self._step_beside(case.name),
                    "raw_seconds_by_round": [measured["cases"][case.name]["seconds"] for measured in self.rounds],
                }
                for case in self.job.cases
            },
        }

    def _middle(self, case: str) -> float:
        return measurements.median_over_rounds([measured["cases"][case]["seconds"] for measured in self.rounds])

    def _step_beside(self, case: str) -> float:
        alone = next(one for one in self.job.cases if one.name == case).new_tokens == 0
        return (self.step_seconds() or 0.0) if alone and self.job.engine == "ctranslate2" else 0.0


def equal_tokens(measured: Mapping[str, Measured], one: str, other: str) -> dict[str, list[int]]:
    """For each case that generates, how many tokens of two contestants are the same, and of how many."""
    found = {}
    for case in (case for case in measured[one].job.cases if case.new_tokens):
        both = measured[one].tokens(case.name), measured[other].tokens(case.name)
        pairs = [pair for rows in zip(*both, strict=True) for pair in zip(*rows, strict=True)]
        found[case.name] = [sum(mine == theirs for mine, theirs in pairs), len(pairs)]
    return found


def print_report(
    measured: Mapping[str, Measured], cases: Sequence[Case], least_seconds: Mapping[str, Mapping[str, float]]
) -> None:
    """Print seconds, milliseconds per token, the speed beside the reference's, and the part of the roofline."""
    rows = []
    for case in cases:
        for name, contestant in measured.items():
            seconds = contestant.seconds(case.name)
            per_token = f"{seconds / case.new_tokens * 1e3:.1f}" if case.new_tokens else ""
            speed = f"{measured[REFERENCE].seconds(case.name) / seconds:.2f}x" if REFERENCE in measured else ""
            least = f"{least_seconds[name][case.name] / seconds:.0%}" if name in least_seconds else ""
            rows.append([case.name, name, f"{seconds:.3f}", per_token, speed, least])
    measurements.print_table(["case", "contestant", "s", "ms/token", f"speed of {REFERENCE}", "of roofline"], rows)
    print()
    header = ["contestant", "GB on disk", "load s", "peak GB, first case", "peak GB, all"]
    measurements.print_table(header, list(_loads(measured)))


def _loads(measured: Mapping[str, Measured]) -> Iterator[list[str]]:
    for name, each in measured.items():
        sizes = (f"{size / 1e9:.2f}" for size in (each.first_peak_bytes, each.peak_bytes))
        yield [name, f"{each.bytes / 1e9:.2f}", f"{each.load_seconds:.2f}", *sizes]
