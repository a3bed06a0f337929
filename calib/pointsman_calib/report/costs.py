"""Size, memory and speed of each variant."""

from collections.abc import Iterator, Sequence

from pointsman_calib.comparison.measuring.generation import ROUNDS
from pointsman_calib.comparison.records import Comparison, Footprint, VariantResult
from pointsman_calib.comparison.summary import speed_ratios
from pointsman_calib.comparison.table import megabytes, notes
from pointsman_calib.report.markup import Markup, element
from pointsman_calib.report.tables import table
from pointsman_calib.report.terms import terms

_HEADING = (
    "variant", "on disk", "in memory, loaded", "in memory, most", "first token, ms", "further tokens, ms each",
    "times as fast",
)  # fmt: skip
_NONE = "-"


def costs(comparison: Comparison) -> Iterator[Markup]:
    """A section: a table, where and how it was measured, and what its terms mean."""
    yield element("h2", "Size, memory and speed")
    yield table(_HEADING, (_row(variant, comparison.baseline) for variant in comparison.variants))
    if comparison.baseline.speed is not None:
        yield element("p", _measured(comparison))
    yield from (element("p", f"{note[0].upper()}{note[1:]}.") for note in notes(comparison))
    yield terms(
        {
            "On disk": "the variant's own files; weights that two variants share count for each.",
            "In memory": "RAM of a process that does nothing else, with Python and libraries: once the variant is "
            "loaded, and the most that it had until some texts were filled with 4 beams. Larger batches and longer "
            "texts take more.",
            "First token": "from the request to the first token that is written; reading the whole text is in it.",
            "Further tokens": "each token that is written after the first, one text at a time, greedy.",
            "Times as fast": "the baseline's time for a further token, over the variant's; in brackets the least and "
            f"the most of {ROUNDS} turns. Where these are far apart, the machine was busy: measure again.",
        }
    )


def _row(variant: VariantResult, baseline: VariantResult) -> Sequence[str]:
    speed = variant.speed
    times = (_NONE, _NONE) if speed is None else (f"{speed.ms_to_first_token:.1f}", f"{speed.ms_per_token:.2f}")
    return (variant.name, megabytes(variant.bytes), *_memory(variant.footprint), *times, _ratio(variant, baseline))


def _memory(footprint: Footprint | None) -> tuple[str, str]:
    return (_NONE, _NONE) if footprint is None else (megabytes(footprint.loaded_bytes), megabytes(footprint.peak_bytes))


def _ratio(variant: VariantResult, baseline: VariantResult) -> str:
    ratios = speed_ratios(variant, baseline)
    if variant is baseline or not ratios or variant.speed is None or baseline.speed is None:
        return _NONE
    ratio = baseline.speed.ms_per_token / variant.speed.ms_per_token
    return f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _measured(comparison: Comparison) -> str:
    """How, and on what machine."""
    tokens = 0 if comparison.baseline.speed is None else comparison.baseline.speed.tokens
    return (
        f"A short measurement on this machine ({comparison.machine}; {comparison.engine}): the variants took "
        f"turns, {ROUNDS} times, and times are medians, of {tokens:,} further tokens each."
    )
