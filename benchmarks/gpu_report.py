"""What the check of a GPU found, in JSON and as a page: who ran, whose tokens are right, and how fast."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, median
from typing import Any

import roofline
from cases import Case
from contestants.forcing import Document
from contestants.searches import SEARCHED_LENGTHS, SEARCHES
from measurements import Bar
from shapes import SHAPES

Forced = Sequence[Mapping[str, Any]]

EXACT, LOW = "float32", "bfloat16"
MOST_LOSS_CHANGE = 0.001  # of the demo model's C4 loss in low precision, as a part of float32's
# Of ONNX Runtime over transformers eager, in bfloat16.
LEAST_SPEEDUPS = {"greedy": 12.0, "batch 8": 10.0, "4 beams": 10.0, "encoder 64": 8.0}
OURS, OURS_EXACT = (f"onnxruntime portable-{precision}" for precision in (LOW, EXACT))
MOST_MILLISECONDS = 1.6  # a token, one input, on an H100 or H200
HOPPER = "9.0"
MOST_GROWTH = 1.1  # of the time of one input with 128 experts over that with 8
_BYTES = {EXACT: 4, LOW: 2}


@dataclass(frozen=True, slots=True)
class Fidelity:
    """What a contestant loses on documents forced upon the demo model.

    Attributes:
        loss: mean over target tokens, in nats.
        change: the difference to the exact loss, as a part of it.
        agreement: the share of positions at which the likeliest token is the exact one's.
    """

    loss: float
    change: float
    agreement: float

    @classmethod
    def of(cls, forced: Forced, exact: Forced) -> "Fidelity":
        """Compare two contestants."""
        loss, reference = _mean_loss(forced), _mean_loss(exact)
        pairs = [pair for ours, theirs in zip(forced, exact, strict=True) for pair in _likeliest(ours, theirs)]
        return cls(loss, loss / reference - 1, sum(one == other for one, other in pairs) / len(pairs))


@dataclass(frozen=True, slots=True)
class Report:
    """One check.

    Attributes:
        gpu: name, compute capability, driver, memory.
        cases: what was timed.
        measured: by contestant, what its process printed; names end with the precision.
        forced: by contestant, what it noted of each document.
        refusals: by contestant, why it did not run.
        shape: of the network.
        grown: what ONNX Runtime's process printed for more experts.
        doubts: by contestant, the nearest choice of each sequence in which its float32 differs; see `differing`.
        mixed: of ONNX Runtime, what was found of requests in shared steps.
    """

    gpu: Mapping[str, Any]
    cases: Sequence[Case]
    measured: Mapping[str, Mapping[str, Any]]
    forced: Mapping[str, Forced]
    refusals: Mapping[str, str]
    shape: str
    grown: Mapping[str, Any]
    doubts: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    mixed: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything, with all raw samples."""
        return {
            "gpu": dict(self.gpu),
            "shape": self.shape,
            "contestants": dict(self.measured),
            "with_128_experts": dict(self.grown),
            "refusals": dict(self.refusals),
            "equal_tokens": self.equal_tokens(),
            "doubts": dict(self.doubts),
            "mixed": dict(self.mixed),
            "forced": {name: asdict(each) for name, each in self.fidelities().items()},
            "bars": [bar.to_json() for bar in self.bars()],
        }

    def seconds(self, name: str, case: str) -> float | None:
        """Of one request, the median; None where the contestant did not run the case."""
        cases = self.measured.get(name, {}).get("cases", {})
        return median(cases[case]["seconds"]) if case in cases else None

    def equal_tokens(self) -> dict[str, dict[str, list[int]]]:
        """For each contestant in float32 and what it generated, how many tokens are transformers', and of how many."""
        found: dict[str, dict[str, list[int]]] = {}
        reference = f"transformers {EXACT}"
        for name in self.measured:
            if name.endswith(EXACT) and name != reference and reference in self.measured:
                pairs = _generated(self.measured[name]), _generated(self.measured[reference])
                found[name] = {what: _equal(pairs[0][what], pairs[1][what]) for what in pairs[0] if what in pairs[1]}
        return found

    def tokens_agree(self) -> bool:
        """Whether some engine ran in float32, and all tokens of all that did are those of transformers.

        A sequence may leave that of transformers at a choice that float32 cannot make: one that is nearer, in float64,
        than transformers' own float32 is exact. Where ONNX Runtime ran, requests in shared steps have to get what they
        get alone.
        """
        counts = self.equal_tokens()
        apart = {name for name, each in counts.items() if any(same < total for same, total in each.values())}
        explained = {name for name, each in self.doubts.items() if each and all(map(_is_reasonable, each))}
        shared = self.mixed and self.mixed["equal"] == self.mixed["requests"]
        return bool(counts) and apart <= explained and (bool(shared) or OURS_EXACT not in counts)

    def fidelities(self) -> dict[str, Fidelity]:
        """What each contestant loses beside transformers in float32."""
        exact = self.forced.get(f"transformers {EXACT}")
        low = {name: forced for name, forced in self.forced.items() if name.endswith(LOW)}
        return {} if exact is None else {name: Fidelity.of(forced, exact) for name, forced in low.items()}

    def losses_agree(self) -> bool:
        """Whether some engine ran in low precision, and the losses of all that did are near enough to float32's."""
        ours = [each for name, each in self.fidelities().items() if not name.startswith("transformers")]
        return bool(ours) and all(abs(each.change) <= MOST_LOSS_CHANGE for each in ours)

    def bars(self) -> list[Bar]:
        """What is promised, where there is something to compare."""
        return [*self._speedups(), *self._milliseconds(), *self._growth()]

    def _speedups(self) -> Iterator[Bar]:
        for case, least in LEAST_SPEEDUPS.items():
            reference, ours = self.seconds(f"transformers {LOW}", case), self.seconds(OURS, case)
            if reference is not None and ours is not None:
                yield Bar(
                    f"{OURS}: times the speed of transformers eager, {case}", reference / ours, least, at_least=True
                )

    def _milliseconds(self) -> Iterator[Bar]:
        ours = self.seconds(OURS, "greedy")
        tokens = {case.name: case.new_tokens for case in self.cases}
        if ours is not None and self.gpu.get("compute_capability") == HOPPER:
            yield Bar(
                f"{OURS}: ms a token, one input", 1e3 * ours / tokens["greedy"], MOST_MILLISECONDS, at_least=False
            )

    def _growth(self) -> Iterator[Bar]:
        ours = self.seconds(OURS, "greedy")
        if ours is not None and self.grown:
            wide = median(self.grown["cases"]["greedy"]["seconds"])
            yield Bar(
                f"{OURS}: times the time of one input, 128 experts for 8", wide / ours, MOST_GROWTH, at_least=False
            )

    def to_markdown(self, started: Mapping[str, Any]) -> str:
        """A page for people."""
        about = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in self.gpu.items() if key != "name")
        versions = ", ".join(f"{package} {version}" for package, version in started["versions"].items())
        lines = [f"# {self.gpu['name']}", "", f"{started['date']}; {about}; {versions}. Shape: {self.shape}.", ""]
        lines += _table(["case", "contestant", "ms", "ms a token", "speed of eager", "roofline"], [*self._rows()])
        lines += ["", *self._token_lines(), *self._loss_lines(), *self._bar_lines(), "", *self._refusal_lines()]
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
        size = roofline.request_bytes(SHAPES[self.shape], case, routing) * _BYTES[_precision(name)] / _BYTES[EXACT]
        seconds: float = size / reference["bytes_a_second"]
        return seconds

    def _token_lines(self) -> Iterator[str]:
        for name, counts in self.equal_tokens().items():
            same, total = (sum(column) for column in zip(*counts.values(), strict=True))
            others = ", ".join(what for what, (one, all_of) in counts.items() if one != all_of)
            yield f"- {name}: {same} of {total} tokens are those of transformers" + (
                f"; not in {others}" if others else ""
            )
            for doubt in self.doubts.get(name, ()):
                verb = "cannot" if _is_reasonable(doubt) else "can"
                yield (
                    f"  - a choice that float32 {verb} make: {doubt['where']} has its best two {doubt['margin']:.1e} "
                    f"apart in float64 at token {doubt['position']}, and float32 of transformers is up to "
                    f"{doubt['error']:.1e} off there"
                )
        if self.mixed:
            ratio = self.mixed["alone"] / self.mixed["together"]
            yield (
                f"- {OURS_EXACT}: {self.mixed['equal']} of {self.mixed['requests']} requests in shared steps get the "
                f"tokens that they get alone, {ratio:.1f} times as fast (demo model)"
            )

    def _loss_lines(self) -> Iterator[str]:
        for name, each in self.fidelities().items():
            yield (
                f"- {name}: the demo model's loss on C4 is {each.loss:.4f}, {each.change:+.3%} beside float32; "
                f"{each.agreement:.1%} of the likeliest tokens agree"
            )

    def _bar_lines(self) -> Iterator[str]:
        for bar in self.bars():
            sign = "≥" if bar.at_least else "≤"
            yield f"- {bar.name}: {bar.value:.2f} (promised {sign} {bar.limit:g}){'' if bar.held else ', missed'}"

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
    """Tokens of each timed case, and of each way of searching."""
    timed = {name: case["tokens"] for name, case in measured["cases"].items() if case["tokens"]}
    named = (", ".join(f"{key} {value}" for key, value in options.items()) or "greedy search" for options in SEARCHES)
    return timed | dict(zip(named, measured.get("searched", []), strict=False))


def differing(
    name: str, measured: Mapping[str, Mapping[str, Any]], cases: Sequence[Case], vocabulary: int
) -> list[Document]:
    """Inputs of the sequences in which a contestant's float32 is not that of transformers, and the latter's tokens.

    They end with the first that differs.
    """
    ours, theirs = (_generated(measured[each]) for each in (name, f"transformers {EXACT}"))
    inputs = {case.name: case.input_ids(vocabulary) for case in cases}
    searched = [Case("", source=length).input_ids(vocabulary)[0] for length in SEARCHED_LENGTHS]
    return [
        Document(tuple(given), tuple(right[: 1 + _same(mine, right)]))
        for what in ours.keys() & theirs.keys()
        for given, mine, right in zip(inputs.get(what, searched), ours[what], theirs[what], strict=True)
        if mine != right
    ]


def _same(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """With how many equal tokens two sequences begin."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(ours), len(theirs)))


def _is_reasonable(doubt: Mapping[str, Any]) -> bool:
    return bool(doubt["margin"] < doubt["error"])


def _equal(ours: list[list[int]], theirs: list[list[int]]) -> list[int]:
    """Equal tokens at equal places, and how many places there are in the longer of each two."""
    pairs = list(zip(ours, theirs, strict=True))
    same = sum(one == other for pair in pairs for one, other in zip(*pair, strict=False))
    return [same, sum(max(map(len, pair)) for pair in pairs)]


def _mean_loss(forced: Forced) -> float:
    losses: list[float] = [loss for document in forced for loss in document["losses"]]
    return mean(losses)


def _likeliest(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    return zip(ours["likeliest"], theirs["likeliest"], strict=True)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", "---", *["---:"] * (len(header) - 2)]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]
