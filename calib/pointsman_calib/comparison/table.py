"""A comparison as tables for the terminal."""

from collections.abc import Iterator, Sequence
from typing import Final

from pointsman.bundle import Fidelity, names
from pointsman_calib.comparison.records import (
    CandidateResult,
    Comparison,
    GenerationAgreement,
    Interval,
    TensorErrors,
    VariantResult,
)
from pointsman_calib.comparison.summary import doubts, headline, limits_asked

COST: Final = ("variant", "size", "memory", "ms/token", "loss (95 % interval)", "increase (95 % interval)")
QUANTIZATION: Final = (
    "quantization",
    "rounding",
    "weights",
    "inputs in two parts",
    "in float",
    "thin experts",
)
REACHED: Final = ("on the calibration text", "loss, span tokens, experts", "all rounded to nearest")
AGREEMENT: Final = ("beside the baseline", "tokens", "experts", "greedy", "4 beams", names.LOGITS, "worst of encoder")
_NONE: Final = "-"

Row = Sequence[str]


def as_text(comparison: Comparison) -> str:
    """The comparison for people: a line on the documents, the tables, and what does not hold."""
    return "\n".join(_lines(comparison)) + "\n"


def _lines(comparison: Comparison) -> Iterator[str]:
    evaluation, candidates = comparison.evaluation, comparison.candidates
    yield (
        f"{evaluation.documents} documents (sha256 {evaluation.sha256[:12]}), {evaluation.source_tokens:,} tokens in, "
        f"{evaluation.label_tokens:,} labels, {evaluation.span_tokens:,} of them span tokens; loss in nats per "
        "span token"
    )
    for candidate in candidates:
        if (used := candidate.variant.calibration) is not None:
            yield f"{candidate.variant.name} was calibrated on {used.documents} others (sha256 {used.sha256[:12]})"
    yield ""
    yield from _aligned([COST, *cost_rows(comparison)])
    yield ""
    yield from _aligned([AGREEMENT, *agreement_rows(comparison)])
    if quantizations := list(quantization_rows(comparison)):
        yield ""
        yield from _aligned([QUANTIZATION, *quantizations])
    if reached := list(_reached_rows(comparison)):
        yield ""
        yield from _aligned([REACHED, *reached])
    yield from _costliest(comparison)
    if any(candidate.layers for candidate in candidates):
        yield ""
        yield from _aligned(list(_layer_rows(candidates)))
    yield ""
    yield (
        "memory: the most that a process of its own had in RAM; tokens: labels of which the likeliest is the same; "
        "greedy, 4 beams: up to the first that differs; errors: SQNR"
    )
    yield from notes(comparison)
    yield ""
    yield f"beside {comparison.baseline.name}, on {comparison.machine}:"
    for candidate in candidates:
        yield f"{candidate.variant.name}: {headline(candidate, comparison.baseline)}"
    yield from doubts(comparison)
    for candidate in candidates:
        for sentence in candidate.failures:
            yield f"FAILED {candidate.variant.name}: {sentence}"
    if comparison.passed and (asked := list(limits_asked(comparison.limits))):
        yield f"all limits hold: {'; '.join(asked)}"


def cost_rows(comparison: Comparison) -> Iterator[Row]:
    """Each variant's size, speed and loss, the baseline's first."""
    baseline = comparison.baseline
    yield _cost_row(baseline, baseline, _NONE)
    for candidate in comparison.candidates:
        yield _cost_row(candidate.variant, baseline, percent_interval(candidate.loss_increase))


def _cost_row(variant: VariantResult, baseline: VariantResult, increase: str) -> Row:
    ratio = "" if variant is baseline else f" ({variant.bytes / baseline.bytes:.2f}x)"
    speed = _NONE if variant.speed is None else f"{variant.speed.ms_per_token:.2f}"
    memory = _NONE if variant.footprint is None else megabytes(variant.footprint.peak_bytes)
    return (variant.name, f"{megabytes(variant.bytes)}{ratio}", memory, speed, loss_interval(variant.loss), increase)


def agreement_rows(comparison: Comparison) -> Iterator[Row]:
    """Each candidate's agreement with the baseline."""
    yield from map(_agreement_row, comparison.candidates)


def _agreement_row(candidate: CandidateResult) -> Row:
    generations = {found.search: _share(found) for found in candidate.generations}
    *cross, logits = candidate.outputs or (None,)
    return (
        candidate.variant.name,
        percent(candidate.token_agreement),
        percent(candidate.expert_agreement),
        generations.get("greedy", _NONE),
        generations.get("4 beams", _NONE),
        sqnr(logits),
        sqnr(_worst(cross)),
    )


def quantized_variants(comparison: Comparison) -> Iterator[VariantResult]:
    """Those that are, the baseline first."""
    yield from (variant for variant in comparison.variants if variant.rounding is not None)


def quantization_rows(comparison: Comparison) -> Iterator[Row]:
    """How each quantized variant came to be: what was kept more precise, and what was thin."""
    for variant in quantized_variants(comparison):
        found = variant.sensitivity
        yield (
            variant.name,
            variant.rounding or _NONE,
            str(variant.quantized),
            str(len(found.fine_inputs)) if found else _NONE,
            str(len(variant.kept)),
            experts_seen(variant) or _NONE,
        )


def _reached_rows(comparison: Comparison) -> Iterator[Row]:
    """What was measured of quantized variants when they were made."""
    for variant in quantized_variants(comparison):
        if (found := variant.sensitivity) is not None:
            yield variant.name, _fidelity(found.reached), _fidelity(found.nearest)


def experts_seen(variant: VariantResult) -> str | None:
    """How many experts calibration saw too little of, and what was done with them; None where it was not counted."""
    if (experts := variant.calibrated_experts) is None:
        return None
    given = sum(len(layer.tokens) for layer in experts.coverage)
    return f"{experts.thin} of {given} {experts.instead}"


def _fidelity(fidelity: Fidelity) -> str:
    return f"{fidelity.loss_increase:+z.2%}, {fidelity.agreement:.2%}, {fidelity.expert_agreement:.2%}"


def _costliest(comparison: Comparison) -> Iterator[str]:
    """The first few of each ranking, which the report has whole."""
    for variant in quantized_variants(comparison):
        if (found := variant.sensitivity) is not None and found.costs:
            yield f"costliest layers of {variant.name}: {', '.join(list(found.costs)[:3])}"


def notes(comparison: Comparison) -> Iterator[str]:
    """What figures do not say of themselves."""
    for variant in quantized_variants(comparison):
        if variant.precision == "int8-qdq" and variant.speed is not None:
            yield (
                f"{variant.name} is for TensorRT: ONNX Runtime dequantizes its embedding and all of its experts in "
                "each step, so its ms/token say nothing of its speed there"
            )


def _layer_rows(candidates: Sequence[CandidateResult]) -> Iterator[Row]:
    """Of each block, each candidate's error."""
    measured = [candidate for candidate in candidates if candidate.layers]
    yield ("residual after", *(candidate.variant.name for candidate in measured))
    for errors in zip(*(candidate.layers for candidate in measured), strict=True):
        yield (errors[0].name, *map(sqnr, errors))


def _share(generation: GenerationAgreement) -> str:
    return percent(generation.prefix)


def megabytes(number_of_bytes: int) -> str:
    """A size such as `37.5 MB`."""
    return f"{number_of_bytes / 1e6:,.1f} MB"


def loss_interval(value: Interval | None) -> str:
    """A loss such as `2.3450 (2.3010 to 2.3880)`."""
    return _NONE if value is None else f"{value.value:.4f}{_ends(value, '.4f')}"


def percent_interval(value: Interval | None) -> str:
    """A change in percent such as `+0.21 % (+0.10 to +0.33)`."""
    return _NONE if value is None else f"{value.value:+z.2f} %{_ends(value, '+z.2f')}"


def _ends(value: Interval, form: str) -> str:
    """Of an interval, where there are documents enough for one."""
    return "" if value.low is None or value.high is None else f" ({value.low:{form}} to {value.high:{form}})"


def percent(share: float | None) -> str:
    """A share in percent."""
    return _NONE if share is None else f"{share:.2%}"


def sqnr(errors: TensorErrors | None) -> str:
    """Decibels, or that nothing differs."""
    if errors is None:
        return _NONE
    return "equal" if errors.sqnr_db is None else f"{errors.sqnr_db:.1f} dB"


def _worst(errors: Sequence[TensorErrors]) -> TensorErrors | None:
    """The one with the least signal to noise."""
    return min(errors, key=lambda error: float("inf") if error.sqnr_db is None else error.sqnr_db, default=None)


def _aligned(rows: Sequence[Row]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
