"""Write the variant: ranges, then weights, then graphs that read them."""

from pathlib import Path
from typing import Final

from pointsman.backends.onnxruntime.session import Device
from pointsman.bundle import (
    ActivationRanges,
    ExpertCoverage,
    Manifest,
    Quantization,
    Scheme,
    Sensitivity,
    Variant,
    names,
)
from pointsman.errors import OptionsError
from pointsman_calib.corpus.coverage import CoverageRule
from pointsman_calib.corpus.text import Corpus
from pointsman_calib.graphs.runs import graph_files
from pointsman_calib.ranges import Method, corpus_pass
from pointsman_calib.ranges.table import RangeTable, write_range_table
from pointsman_calib.schemes.draft import producer
from pointsman_calib.schemes.qdq.draft import QdqDraft
from pointsman_calib.settle import CalibrationText, Limits, measured, settle

SCHEME: Final[Scheme] = "int8-qdq"
SOURCE: Final = corpus_pass.SOURCE
_FORMATS: Final = {0: "int8 by row", 1: "int8 by column", 2: "int8 by expert and column"}


def write_variant(
    bundle: Path,
    manifest: Manifest,
    place: Path,
    *,
    corpus: Corpus | None,
    ranges: RangeTable | None,
    method: Method,
    coverage: CoverageRule,
    limits: Limits,
    device: Device = "cpu",
) -> Variant:
    """Write weights, graphs and the table of ranges.

    Products with weights take INT8 on both sides; the embedding is INT8; routers, norms, softmax and all else stay in
    float32. With a corpus, inputs of the layers that cost most stay in float32 too, and then their weights, until the
    limits hold on it.

    Args:
        bundle: with a `portable-float32` variant.
        manifest: the bundle's.
        place: where to write; it becomes `variants/int8-qdq`.
        corpus: what to observe ranges on, and to judge by.
        ranges: observed before, in the corpus's place; then nothing is judged.
        method: which of the ranges to clip to.
        coverage: how well the text must reach the experts; thin ones have their layer's range.
        limits: what to hold to on the corpus.
        device: where graphs run over the corpus.

    Raises:
        OptionsError: there is neither corpus nor ranges, or both; or the limits leave nothing quantized.
        BundleError: the ranges are of another variant, or the variant computes NaN or infinity.
        CorpusError: too many experts were given too few tokens.
    """
    source = manifest.variants[SOURCE]
    table = _table(bundle, manifest, corpus, ranges, device)
    covered = coverage.coverage(table.coverage, documents=table.provenance.sequences)
    step = None if source.step is None else bundle / source.step.file
    draft = QdqDraft(graph_files(bundle, source), table, manifest.architecture, covered, method, place, step)
    sensitivity = None if corpus is None else _settled(draft, manifest, corpus, limits, device)
    write_range_table(table, place / names.RANGES)
    return draft.variant(source, _provenance(draft, table, covered, method, sensitivity), names.RANGES)


def _settled(draft: QdqDraft, manifest: Manifest, corpus: Corpus, limits: Limits, device: Device) -> Sensitivity:
    """Keep in float what the limits need."""
    trials = CalibrationText(
        corpus=corpus,
        architecture=manifest.architecture,
        variant=manifest.variants[SOURCE],
        most_tokens=1,  # each document alone, as for ranges: a decoder gathers the weights of each token's expert
        scratch=draft.place,
        device=device,
    ).beside(draft.source, draft.graphs, draft.scheme)
    settled = settle(draft, limits, trials)
    return measured(settled, settled.without, trials.exact)


def _table(
    bundle: Path, manifest: Manifest, corpus: Corpus | None, table: RangeTable | None, device: Device
) -> RangeTable:
    if (corpus is None) == (table is None):
        raise OptionsError(f"{SCHEME} needs ranges of activations: give either a corpus or a table of ranges")
    if corpus is not None:
        return corpus_pass.collect_ranges(bundle, manifest, corpus, device=device)
    assert table is not None
    table.require_variant(SOURCE, manifest.variants[SOURCE])
    return table


def _provenance(
    draft: QdqDraft, table: RangeTable, coverage: ExpertCoverage, method: Method, sensitivity: Sensitivity | None
) -> Quantization:
    routers = {names.router_weight(each.layer) for each in draft.products if each.layer is not None}
    in_float = frozenset(() if sensitivity is None else sensitivity.float_weights)
    return Quantization(
        scheme=SCHEME,
        source=SOURCE,
        formats={name: _FORMATS[axis] for name, axis in sorted(draft.axes.items()) if name not in in_float},
        kept=tuple(sorted(routers | in_float)),
        rounding="nearest",
        calibration=table.provenance.calibration,
        coverage=coverage,
        sensitivity=sensitivity,
        activations=ActivationRanges(method=method),
        producer=producer(),
    )
