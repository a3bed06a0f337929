"""Write a weight-only variant: every tensor of the float one, quantized or as it is, and graphs that read it."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pointsman.bundle import (
    ExpertCoverage,
    FileRecord,
    Graph,
    Manifest,
    Quantization,
    Role,
    Scheme,
    Sensitivity,
    Variant,
    names,
    record_of,
)
from pointsman.bundle.manifest import installed_versions
from pointsman_calib.corpus.batches import Batch
from pointsman_calib.corpus.coverage import Counts, require_coverage, thin_experts
from pointsman_calib.corpus.text import Corpus
from pointsman_calib.graphs.runs import PiecewiseRun, graph_files
from pointsman_calib.rounding import BlockFormat, BlockQuantized, round_blocks
from pointsman_calib.schemes.weight_only.draft import Draft
from pointsman_calib.schemes.weight_only.input_statistics import GptqRounding, InputStatistics
from pointsman_calib.settle import DEFAULT_LIMITS, Limits, Text, measured, score, settle

SOURCE: Final = "fused-float32"
PACKAGES: Final = ("pointsman", "numpy", "onnx-ir", "onnxruntime")
RANKED_BATCHES, JUDGED_BATCHES = 4, 16  # of eight documents: the text is run once for each layer, or some seven times


def write_variant(
    bundle: Path, manifest: Manifest, scheme: Scheme, corpus: Corpus | None, limits: Limits | None, place: Path
) -> Variant:
    """Write weights and graphs.

    Norms, biases and routers stay in float32; the embedding and the head are INT8 in both schemes. Without a corpus,
    weights are rounded to nearest and memory is bounded by the largest tensor. With one, they are rounded by GPTQ
    (Frantar et al. 2022), which runs the float variant piece by piece, and what costs most is spared until the limits
    hold.

    Args:
        bundle: with a `fused-float32` variant.
        manifest: the bundle's.
        scheme: `int8` or `int4`.
        corpus: what to round for; None rounds to nearest.
        limits: what to hold to; the scheme's own where None.
        place: where to write; it becomes `variants/<scheme>`.

    Raises:
        CorpusError: too many experts are given too few tokens.
        OptionsError: the limits leave nothing quantized.
    """
    source = manifest.variants[SOURCE]
    draft = Draft(graph_files(bundle, source), scheme, place)
    if corpus is None:
        draft.round(_to_nearest)
        quantization = _provenance(draft)
    else:
        quantization = _calibrated(draft, manifest, corpus, limits or DEFAULT_LIMITS[scheme])
    draft.close()
    return _variant(source, draft, quantization)


def _calibrated(draft: Draft, manifest: Manifest, corpus: Corpus, limits: Limits) -> Quantization:
    """Round for a corpus, and spare what the limits need."""
    architecture = manifest.architecture

    def run(graphs: Mapping[Role, Path], batches: int | None = None) -> PiecewiseRun:
        def text() -> Iterable[Batch]:
            return itertools.islice(corpus.batches(architecture), batches)

        return PiecewiseRun(graphs, manifest.variants[SOURCE], text, scratch=draft.place)

    statistics = InputStatistics(run(draft.source), architecture)
    coverage = _coverage(statistics.coverage(), limits, documents=len(corpus.examples))
    text = Text(
        judging=lambda: score(run(draft.graphs, JUDGED_BATCHES)),
        ranking=lambda: score(run(draft.graphs, RANKED_BATCHES)),
        exact=score(run(draft.source, JUDGED_BATCHES)),
    )
    draft.round(_to_nearest)
    nearest = text.judging()
    looked_up = {name for name, weight in draft.weights.items() if weight.gathered}
    draft.round(GptqRounding(statistics, draft.order, coverage.thin, looked_up))
    settled = settle(draft, limits, text)
    return _provenance(draft, corpus, coverage, measured(settled, nearest, text.exact))


def _to_nearest(_name: str, weight: NDArray[np.float32], form: BlockFormat) -> BlockQuantized:
    return round_blocks(weight, form)


def _coverage(counts: Counts, limits: Limits, *, documents: int) -> ExpertCoverage:
    fewest = limits.min_expert_tokens
    require_coverage(counts, fewest_tokens=fewest, most_thin=limits.max_thin_experts, documents=documents)
    return ExpertCoverage(fewest_tokens=fewest, tokens=dict(counts), thin=thin_experts(counts, fewest))


def _variant(source: Variant, draft: Draft, quantization: Quantization) -> Variant:
    final = names.variant_folder(draft.scheme)
    path = draft.place / names.WEIGHTS
    weights = FileRecord(path=names.weights_file(draft.scheme), bytes=path.stat().st_size, sha256=draft.contents.sha256)
    graphs = (replace(record_of(draft.place, file), path=f"{final}/{file.name}") for file in draft.graphs.values())
    return replace(
        source,
        precision=draft.scheme,
        encoder=_moved(source.encoder, final),
        decoder=_moved(source.decoder, final),
        files=(*graphs, weights),
        quantization=quantization,
    )


def _moved(graph: Graph, place: str) -> Graph:
    return replace(graph, file=f"{place}/{Path(graph.file).name}")


def _provenance(
    draft: Draft,
    corpus: Corpus | None = None,
    coverage: ExpertCoverage | None = None,
    sensitivity: Sensitivity | None = None,
) -> Quantization:
    rounded = sorted(draft.contents.rounded.items())
    return Quantization(
        scheme=draft.scheme,
        source=SOURCE,
        formats={name: f"int{weight.form.bits} in blocks of {weight.form.block_size}" for name, weight in rounded},
        kept=tuple(sorted(draft.weights.keys() - draft.contents.rounded.keys())),
        rounding="nearest" if corpus is None else "GPTQ",
        calibration=None if corpus is None else corpus.provenance(),
        coverage=coverage,
        sensitivity=sensitivity,
        producer=installed_versions(PACKAGES),
    )
