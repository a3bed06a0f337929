"""Write a weight-only variant: every tensor of the float one, quantized or as it is, and graphs that read it."""

from pathlib import Path
from typing import Final

from pointsman.backends.onnxruntime.session import Device
from pointsman.bundle import ExpertCoverage, Manifest, Quantization, Scheme, Sensitivity, Variant
from pointsman_calib.corpus.coverage import CoverageRule
from pointsman_calib.corpus.text import MOST_TOKENS, Corpus
from pointsman_calib.graphs.runs import graph_files
from pointsman_calib.graphs.widening import widened_variant
from pointsman_calib.rounding import round_blocks
from pointsman_calib.rounding.processes import GptqProcesses, suitable
from pointsman_calib.schemes.draft import producer
from pointsman_calib.schemes.weight_only.draft import WeightOnlyDraft
from pointsman_calib.schemes.weight_only.graphs import RoundingOfOne
from pointsman_calib.schemes.weight_only.input_statistics import MEMORY_BUDGETS, GptqRounding, InputStatistics
from pointsman_calib.settle import CalibrationText, Limits, measured, settle

SOURCES: Final = ("fused-float32", "fused-bfloat16")


def write_variant(
    bundle: Path,
    manifest: Manifest,
    scheme: Scheme,
    place: Path,
    *,
    source: str,
    corpus: Corpus | None,
    coverage: CoverageRule,
    limits: Limits,
    device: Device = "cpu",
) -> Variant:
    """Write weights and graphs.

    Norms, biases and routers stay in float32; embeddings and the head are INT8 in both schemes. Without a corpus,
    weights are rounded to nearest and memory is bounded by the largest tensor. With one, they are rounded by GPTQ
    (Frantar et al. 2022), which runs the float variant piece by piece, and what costs most is kept in float until the
    limits hold.

    Args:
        bundle: its folder.
        manifest: the bundle's.
        scheme: `int8` or `int4`.
        place: where to write; it becomes `variants/<scheme>`.
        source: name of the float variant, one of `SOURCES`.
        corpus: what to round for; None rounds to nearest.
        coverage: how well the corpus must reach the experts; thin ones are rounded to nearest.
        limits: what to hold to on the corpus.
        device: where graphs run over the corpus.

    Raises:
        CorpusError: too many experts are given too few tokens.
        OptionsError: the limits leave nothing quantized.
    """
    variant = manifest.variants[source]
    draft = WeightOnlyDraft(graph_files(bundle, variant), scheme, place)
    if corpus is None:
        draft.round(_to_nearest)
        quantization = _provenance(draft, source)
    else:
        quantization = _calibrated(draft, manifest, source, corpus, coverage, limits, device)
    draft.close()
    return draft.variant(widened_variant(variant), quantization)


def _calibrated(
    draft: WeightOnlyDraft,
    manifest: Manifest,
    source: str,
    corpus: Corpus,
    rule: CoverageRule,
    limits: Limits,
    device: Device,
) -> Quantization:
    """Round for a corpus, and keep in float what the limits need."""
    calibration = CalibrationText(
        corpus=corpus,
        architecture=manifest.architecture,
        variant=manifest.variants[source],
        most_tokens=MOST_TOKENS,
        scratch=draft.place,
        device=device,
    )
    trials = calibration.beside(draft.source, draft.graphs, draft.scheme)
    statistics = InputStatistics(calibration.run(draft.source), manifest.architecture.num_experts)
    given = statistics.given(trials.exact) if calibration.is_judged_whole else statistics.coverage()
    coverage = rule.coverage(given, documents=len(corpus.examples))
    draft.round(_to_nearest)
    nearest = trials.judging()
    with GptqProcesses(suitable()) as processes:
        draft.round(GptqRounding(statistics, draft.order, coverage.thin, MEMORY_BUDGETS[device], processes.gptq))
    settled = settle(draft, limits, trials)
    return _provenance(draft, source, corpus, coverage, measured(settled, nearest, trials.exact))


def _to_nearest(_name: str) -> RoundingOfOne:
    return round_blocks


def _provenance(
    draft: WeightOnlyDraft,
    source: str,
    corpus: Corpus | None = None,
    coverage: ExpertCoverage | None = None,
    sensitivity: Sensitivity | None = None,
) -> Quantization:
    rounded = sorted(draft.contents.rounded.items())
    return Quantization(
        scheme=draft.scheme,
        source=source,
        formats={name: str(weight.formats) for name, weight in rounded},
        kept=tuple(sorted(draft.weights.keys() - draft.contents.rounded.keys())),
        rounding="nearest" if corpus is None else "GPTQ",
        calibration=None if corpus is None else corpus.provenance(),
        coverage=coverage,
        sensitivity=sensitivity,
        producer=producer(),
    )
