"""What the check of a GPU found, in JSON and as a page: who ran, whose tokens are right, and how fast."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import roofline
from cases import Case
from gpu_contestants import PARITY
from measurements import Bar
from shapes import SHAPES

LEAST_SPEEDUP = 10.0  # of the fastest engine over transformers eager, bfloat16, one input
_BYTES = {"float32": 4, "bfloat16": 2}
_FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Report:
    """One check.

    Attributes:
        gpu: name, compute capability, driver, memory.
        cases: what was timed.
        measured: by contestant, what its process printed; names end with the precision.
        refusals: by contestant, why it did not run.
        shape: of the network.
    """

    gpu: Mapping[str, Any]
    cases: Sequence[Case]
    measured: Mapping[str, Mapping[str, Any]]
    refusals: Mapping[str, str]
    shape: str

    def to_json(self) -> dict[str, Any]:
        """Everything, with all raw samples."""
        return {
            "gpu": dict(self.gpu),
            "shape": self.shape,
            "contestants": dict(self.measured),
            "refusals": dict(self.refusals),
            "equal_tokens": self.equal_tokens(),
            "bars": [bar.to_json() for bar in self.bars()],
        }

    def seconds(self, name: str, case: str) -> float | None:
        """Of one request, the median; None where the contestant did not run the case."""
        cases = self.measured.get(name, {}).get("cases", {})
        return median(cases[case]["seconds"]) if case in cases else None

    def equal_tokens(self) -> dict[str, dict[str, list[int]]]:
        """For each contestant and what it generated, how many tokens are those of transformers, and of how many."""
        found: dict[str, dict[str, list[int]]] = {}
        for name in self.measured:
            reference = self._reference(name)
            if name != reference and reference in self.measured:
                pairs = _generated(self.measured[name]), _generated(self.measured[reference])
                found[name] = {what: _equal(pairs[0][what], pairs[1][what]) for what in pairs[0] if what in pairs[1]}
        return found

    def tokens_agree(self) -> bool:
        """Whether some engine ran in float32, and all tokens of all that did are those of transformers."""
        counts = [counts for name, counts in self.equal_tokens().items() if name.endswith("float32")]
        return bool(counts) and all(same == total for each in counts for same, total in each.values())

    def bars(self) -> list[Bar]:
        """What is promised, where there is something to compare."""
        reference = self.seconds("transformers bfloat16", "greedy")
        ours = [
            seconds
            for name in self.measured
            if name.endswith("bfloat16") and not name.startswith("transformers")
            if (seconds := self.seconds(name, "greedy")) is not None
        ]
        if reference is None or not ours:
            return []
        name = "the fastest engine: times the speed of transformers eager, greedy, bfloat16"
        return [Bar(name, reference / min(ours), LEAST_SPEEDUP, at_least=True)]

    def to_markdown(self, started: Mapping[str, Any]) -> str:
        """A page for people."""
        about = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in self.gpu.items() if key != "name")
        versions = ", ".join(f"{package} {version}" for package, version in started["versions"].items())
        lines = [f"# {self.gpu['name']}", "", f"{started['date']}; {about}; {versions}. Shape: {self.shape}.", ""]
        lines += _table(["case", "contestant", "ms", "ms a token", "speed of eager", "roofline"], [*self._rows()])
        lines += ["", *self._token_lines(), "", *self._refusal_lines()]
        return "\n".join(lines).rstrip() + "\n"

    def _rows(self) -> Iterator[list[str]]:
        for case in self.cases:
            for name in self.measured:
                seconds = self.seconds(name, case.name)
                if seconds is not None:
                    yield [case.name, name, f"{1e3 * seconds:.2f}", *self._ratios(name, case, seconds)]

    def _ratios(self, name: str, case: Case, seconds: float) -> list[str]:
        eager = self.seconds(self._reference(name), case.name)
        per_token = f"{1e3 * seconds / case.new_tokens:.2f}" if case.new_tokens else ""
        least = self.roofline_seconds(name, case)
        return [
            per_token,
            "" if eager is None else f"{eager / seconds:.1f}×",
            "" if least is None else f"{least / seconds:.0%}",
        ]

    def roofline_seconds(self, name: str, case: Case) -> float | None:
        """What reading a request's weights takes at the speed at which the GPU copies; None where it was not seen."""
        reference = self.measured.get(self._reference(name), {})
        routing = reference.get("cases", {}).get(case.name, {}).get("routing")
        if routing is None or not case.new_tokens:
            return None
        size = roofline.request_bytes(SHAPES[self.shape], case, routing) * _BYTES[_precision(name)] / _FLOAT32_BYTES
        seconds: float = size / reference["bytes_a_second"]
        return seconds

    def _token_lines(self) -> Iterator[str]:
        for name, counts in self.equal_tokens().items():
            same, total = (sum(column) for column in zip(*counts.values(), strict=True))
            others = ", ".join(what for what, (one, all_of) in counts.items() if one != all_of)
            yield f"- {name}: {same} of {total} tokens are those of transformers" + (
                f"; not in {others}" if others else ""
            )

    def _refusal_lines(self) -> Iterator[str]:
        for name, reason in self.refusals.items():
            yield f"- {name} did not run: {reason}"

    @staticmethod
    def _reference(name: str) -> str:
        """Transformers, eager, at the contestant's precision."""
        return f"transformers {_precision(name)}"


def _precision(name: str) -> str:
    return next(precision for precision in _BYTES if name.endswith(precision))


def _generated(measured: Mapping[str, Any]) -> dict[str, list[list[int]]]:
    """Tokens of each timed case, and of each case of the parity grid."""
    timed = {name: case["tokens"] for name, case in measured["cases"].items() if case["tokens"]}
    named = (", ".join(f"{key} {value}" for key, value in options.items()) or "greedy search" for options in PARITY)
    return timed | dict(zip(named, measured.get("parity", []), strict=False))


def _equal(ours: list[list[int]], theirs: list[list[int]]) -> list[int]:
    """Equal tokens at equal places, and how many places there are in the longer of each two."""
    pairs = list(zip(ours, theirs, strict=True))
    same = sum(one == other for pair in pairs for one, other in zip(*pair, strict=False))
    return [same, sum(max(map(len, pair)) for pair in pairs)]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", "---", *["---:"] * (len(header) - 2)]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]
