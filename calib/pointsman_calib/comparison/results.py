"""From what was counted to what is reported, and whether it holds the limits."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from pointsman.bundle import Variant
from pointsman_calib.comparison.loss import increase_interval, loss_interval
from pointsman_calib.comparison.records import (
    CalibratedExperts,
    CandidateResult,
    DocumentsUsed,
    ExpertCoverage,
    GenerationAgreement,
    Instead,
    Limits,
    VariantResult,
)
from pointsman_calib.comparison.tallies import LOGITS, PairTally, VariantTally
from pointsman_calib.comparison.variants import calibrated_on
from pointsman_calib.corpus.coverage import Counts


@dataclass(frozen=True, slots=True)
class Generated:
    """What was measured while a variant generated.

    Attributes:
        ms_per_token: median of its greedy steps.
        agreement: of its generations with the baseline's.
    """

    ms_per_token: float | None
    agreement: tuple[GenerationAgreement, ...]


NOTHING_GENERATED: Final = Generated(None, ())


def variant_result(
    name: str, variant: Variant, tally: VariantTally, generated: Generated, *, seed: int
) -> VariantResult:
    """What was measured of a variant by itself.

    Args:
        name: of the variant.
        variant: its part of the manifest.
        tally: counted under teacher forcing.
        generated: measured while it generated.
        seed: of the bootstrap.
    """
    calibration, quantization = calibrated_on(variant), variant.quantization
    return VariantResult(
        name=name,
        form=variant.form,
        precision=variant.precision,
        capacity=variant.capacity,
        bytes=sum(file.bytes for file in variant.files),
        rounding=quantization.rounding if quantization else None,
        calibration=DocumentsUsed(documents=len(calibration), sha256=calibration.sha256) if len(calibration) else None,
        calibrated_experts=calibrated_experts(variant),
        quantized=len(quantization.formats) if quantization else 0,
        kept=quantization.kept if quantization else (),
        sensitivity=quantization.sensitivity if quantization else None,
        non_finite=tally.non_finite,
        loss=None if tally.non_finite else loss_interval(tally.losses, seed=seed),
        coverage=() if tally.non_finite else tally.coverage(),
        ms_per_token=generated.ms_per_token,
    )


def calibrated_experts(variant: Variant) -> CalibratedExperts | None:
    """How well a variant's experts were seen in calibration; None where that was not counted."""
    quantization = variant.quantization
    if quantization and (ranges := quantization.activations):
        return _experts(ranges.coverage, ranges.thin_experts, ranges.fewest_tokens, "given their layer's range")
    if quantization and (coverage := quantization.coverage):
        return _experts(coverage.tokens, coverage.thin, coverage.fewest_tokens, "rounded to nearest")
    return None


def _experts(tokens: Counts, thin: Counts, fewest: int, instead: Instead) -> CalibratedExperts:
    """By block, as routers are named, the encoder's first; each has one sparse layer at most."""
    blocks = {layer.partition(".layer.")[0]: given for layer, given in tokens.items()}
    return CalibratedExperts(
        coverage=tuple(ExpertCoverage(layer=block, tokens=blocks[block]) for block in sorted(blocks, key=_place)),
        fewest_tokens=fewest,
        thin=sum(map(len, thin.values())),
        instead=instead,
    )


def _place(block: str) -> tuple[bool, int]:
    """Where a block such as `decoder.block.3` comes."""
    side, _, number = block.split(".")
    return side == "decoder", int(number)


def candidate_result(
    variant: VariantResult,
    baseline: VariantTally,
    tally: VariantTally,
    pair: PairTally,
    generated: Generated,
    *,
    limits: Limits,
    seed: int,
) -> CandidateResult:
    """What was measured of a candidate, judged.

    Args:
        variant: the candidate by itself.
        baseline: counted of the baseline.
        tally: counted of the candidate.
        pair: counted of the two together.
        generated: measured while it generated.
        limits: what must hold.
        seed: of the bootstrap.
    """
    result = _nothing_measured(variant)
    if not variant.non_finite:
        experts = pair.experts()
        result = replace(
            result,
            loss_increase=increase_interval(baseline.losses, tally.losses, seed=seed),
            token_agreement=pair.tokens.value,
            expert_agreement=pair.routed.value if experts else None,
            outputs=pair.errors(layers=False),
            steps=pair.steps.sqnr_db(),
            layers=pair.errors(layers=True),
            experts=experts,
            generations=generated.agreement,
        )
    return replace(result, failures=tuple(failures(result, limits)))


def _nothing_measured(variant: VariantResult) -> CandidateResult:
    return CandidateResult(
        variant=variant,
        loss_increase=None,
        token_agreement=None,
        expert_agreement=None,
        outputs=(),
        steps=(),
        layers=(),
        experts=(),
        generations=(),
        failures=(),
    )


def failures(result: CandidateResult, limits: Limits) -> Iterator[str]:
    """A sentence for each limit that a candidate does not hold; values that are not finite never hold."""
    if result.variant.non_finite:
        where = ", ".join(f"{tensor.values} of {tensor.name}" for tensor in result.variant.non_finite)
        yield f"values are not finite: {where}"
        return
    increase, most = result.loss_increase, limits.max_loss_increase
    if increase is not None and most is not None and increase.value > most:
        yield f"the loss is {increase.value:.3g} % above the baseline's; at most {most:g} % is allowed"
    yield from _too_few("tokens are the baseline's", result.token_agreement, limits.min_agreement)
    yield from _too_few("tokens go to the baseline's expert", result.expert_agreement, limits.min_expert_agreement)
    yield from _too_noisy(result, limits.min_sqnr)


def _too_few(what: str, share: float | None, least: float | None) -> Iterator[str]:
    if share is not None and least is not None and 100 * share < least:
        yield f"{100 * share:.4g} % of {what}; at least {least:g} % must be so"


def _too_noisy(result: CandidateResult, least: float | None) -> Iterator[str]:
    for tensor in result.outputs:
        sqnr = tensor.sqnr_db
        if tensor.name == LOGITS and sqnr is not None and least is not None and sqnr < least:
            yield f"the logits' signal is {sqnr:.3g} dB above the error; it must be {least:g} dB at least"
