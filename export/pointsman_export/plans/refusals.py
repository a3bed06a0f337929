"""A parser's or builder's refusal as one line: which node, why, and what to change."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pointsman_export.plans.library import Library

_NO_REASON = "it gives no reason"
_SHOWN = 240  # characters of the library's own words

# What the words of a refusal, or its operator, ask for; the first match holds.
_ADVICE = (
    (r"[Oo]ut of memory|OUT_OF_MEMORY|insufficient memory", "build for fewer rows (`max_rows`) on a larger machine"),
    (r"[Vv]olume exceeds", "build for fewer rows (`max_rows`)"),
    (r"datatypes: b16", "build for compute capability 8.0 or later, or a variant that is not bfloat16"),
    (r"[Qq]uantized constant", "let an INT8 constant feed DequantizeLinear and nothing else"),
    (r"reduction", "scatter to places that differ, without a reduction"),
    (r"\bNonZero\b", "compute with a mask of fixed shape instead"),
    (r"DynamicQuantizeLinear|MatMulInteger", "quantize with fixed scales: QuantizeLinear and DequantizeLinear"),
    (r"plugin|MatMulNBits|\bQ?MoE\b", "write it in operators of standard ONNX, as the portable form is"),
)
_OTHERWISE = "change that part of the graph, or build with another version of the library"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a library said.

    Attributes:
        node: name of the ONNX node, where the library names it.
        operator: its type, likewise.
        words: the library's own.
    """

    node: str | None
    operator: str | None
    words: str


def parsing_refusal(parser: Any) -> Refusal:  # noqa: ANN401 - of an untyped library
    """From what an ONNX parser, or a refitter's, reports."""
    if not parser.num_errors:
        return Refusal(None, None, _NO_REASON)
    error = parser.get_error(0)
    return Refusal(error.node_name() or None, error.node_operator() or None, error.desc())


def building_refusal(errors: Sequence[str], layers: Iterable[str]) -> Refusal:
    """From what the builder reports; layers bear the names of the nodes that they come from."""
    words = errors[-1] if errors else _NO_REASON  # what came before may be tactics that it could do without
    named = [name for name in layers if name and re.search(rf"(?<![\w./]){re.escape(name)}(?![\w./])", words)]
    return Refusal(max(named, key=len, default=None), None, words)


def sentence(library: Library, graph: str, refusal: Refusal) -> str:
    """The line that a user reads."""
    operator = f" ({refusal.operator})" if refusal.operator else ""
    what = f"node {refusal.node}{operator} of {graph}" if refusal.node else graph
    advice = next(
        (advice for pattern, advice in _ADVICE if re.search(pattern, f"{refusal.operator} {refusal.words}")), _OTHERWISE
    )
    return f"{library} refuses {what}: {_plain(refusal.words)}; {advice}"


def _plain(words: str) -> str:
    """The library's words on one line, without its source files and error codes."""
    line = " ".join(words.split())
    line = re.sub(r"^.*?Error Code \d+: [\w ]+\((.*)\)$", r"\1", line)
    line = re.sub(r" In \w+ at [^\s;]+", "", line).removeprefix("Assertion failed: ").rstrip(". ")
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
