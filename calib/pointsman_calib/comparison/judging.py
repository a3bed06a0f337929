"""From what was counted to what is reported, and whether it holds the limits."""

from collections.abc import Iterator
from dataclasses import replace

from pointsman.bundle import Architecture, ExpertCoverage, Fidelity, Variant, names
from pointsman_calib.comparison.measuring.generation import Generated
from pointsman_calib.comparison.measuring.intervals import increase_interval, loss_interval
from pointsman_calib.comparison.measuring.tallies import VariantTally
from pointsman_calib.comparison.measuring.teacher_forcing import Counted, stacks
from pointsman_calib.comparison.records import (
    CalibratedExperts,
    CandidateResult,
    DocumentsUsed,
    GenerationAgreement,
    Instead,
    LayerCoverage,
    VariantResult,
)
from pointsman_calib.comparison.subject import calibrated_on
from pointsman_calib.settle.limits import Limits


def variant_result(
    name: str,
    variant: Variant,
    architecture: Architecture,
    tally: VariantTally,
    generated: Generated,
    *,
    seed: int,
) -> VariantResult:
    """What was measured of a variant by itself.

    Args:
        name: of the variant.
        variant: its part of the manifest.
        architecture: of the bundle.
        tally: counted under teacher forcing.
        generated: what was measured while it generated.
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
        calibrated_experts=calibrated_experts(variant, architecture),
        quantized=len(quantization.formats) if quantization else 0,
        kept=quantization.kept if quantization else (),
        sensitivity=quantization.sensitivity if quantization else None,
        non_finite=tally.non_finite,
        loss=None if tally.non_finite else loss_interval(tally.losses, seed=seed),
        coverage=() if tally.non_finite else tally.coverage(),
        speed=generated.speed,
        footprint=generated.footprint,
    )


def calibrated_experts(variant: Variant, architecture: Architecture) -> CalibratedExperts | None:
    """How well a variant's experts were seen in calibration; None where that was not counted."""
    quantization = variant.quantization
    if quantization is None or (coverage := quantization.coverage) is None:
        return None
    instead: Instead = "given their layer's range" if quantization.activations else "rounded to nearest"
    return _experts(architecture, coverage, instead)


def _experts(architecture: Architecture, coverage: ExpertCoverage, instead: Instead) -> CalibratedExperts:
    """By block, in the order of computation."""
    layers = {
        names.block_path(role, number): names.sparse_layer(role, number)
        for role, stack in stacks(architecture).items()
        for number in stack.sparse_layers
    }
    return CalibratedExperts(
        coverage=tuple(
            LayerCoverage(layer=block, tokens=coverage.tokens[layer])
            for block, layer in layers.items()
            if layer in coverage.tokens
        ),
        fewest_tokens=coverage.fewest_tokens,
        thin=sum(map(len, coverage.thin.values())),
        instead=instead,
    )


def candidate_result(
    variant: VariantResult,
    counted: Counted,
    generations: tuple[GenerationAgreement, ...],
    *,
    limits: Limits,
    seed: int,
) -> CandidateResult:
    """What was measured of a candidate, judged.

    Args:
        variant: the candidate by itself.
        counted: of the candidate beside the baseline.
        generations: of the candidate beside the baseline's.
        limits: what must hold.
        seed: of the bootstrap.
    """
    result = _nothing_measured(variant)
    if not variant.non_finite:
        pair, experts = counted.pair, counted.pair.experts()
        result = replace(
            result,
            loss_increase=increase_interval(counted.baseline.losses, counted.candidate.losses, seed=seed),
            token_agreement=pair.tokens.value,
            expert_agreement=pair.routed.value if experts else None,
            outputs=pair.outputs(),
            steps=pair.steps.sqnr_db(),
            layers=pair.layers(),
            experts=experts,
            generations=generations,
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
    if (fidelity := _fidelity(result)) is not None:
        logits = next((tensor.sqnr_db for tensor in result.outputs if tensor.name == names.LOGITS), None)
        yield from limits.failures(fidelity, logits)


def _fidelity(result: CandidateResult) -> Fidelity | None:
    """None where nothing was measured; a model without routers sends no token elsewhere."""
    increase, agreement, experts = result.loss_increase, result.token_agreement, result.expert_agreement
    if increase is None or agreement is None or result.variant.non_finite:
        return None
    return Fidelity(
        loss_increase=increase.value / 100,
        agreement=agreement,
        expert_agreement=1.0 if experts is None else experts,
    )
