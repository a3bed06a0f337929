"""Write the variant: ranges, then weights, then graphs that read them."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from pointsman.bundle import (
    ActivationRanges,
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
from pointsman.errors import OptionsError
from pointsman_calib.corpus.batches import Batch
from pointsman_calib.corpus.coverage import require_coverage, thin_experts
from pointsman_calib.corpus.text import Corpus
from pointsman_calib.graphs.products import ROUTER
from pointsman_calib.graphs.runs import PiecewiseRun, graph_files
from pointsman_calib.ranges import collection as ranges
from pointsman_calib.ranges.table import RangeTable, write_range_table
from pointsman_calib.schemes.qdq.draft import Draft
from pointsman_calib.schemes.qdq.scales import DEFAULT, Clipping
from pointsman_calib.settle import DEFAULT_LIMITS, Limits, Text, measured, score, settle

SCHEME: Final[Scheme] = "int8-qdq"
NAME: Final = f"portable-{SCHEME}"
SOURCE: Final = ranges.SOURCE
PACKAGES: Final = ("pointsman", "numpy", "onnx-ir", "onnxruntime")
RANKED_DOCUMENTS, JUDGED_DOCUMENTS = 32, 128  # the text is run once for each layer, or some seven times
_FORMATS: Final = {0: "int8 by row", 1: "int8 by column", 2: "int8 by expert and column"}


def write_variant(
    bundle: Path,
    manifest: Manifest,
    place: Path,
    *,
    corpus: Corpus | None = None,
    table: RangeTable | None = None,
    clipping: Clipping = DEFAULT,
    limits: Limits | None = None,
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
        table: ranges observed before, in the corpus's place; then nothing is judged.
        clipping: how ranges become scales.
        limits: what to hold to on the corpus; the scheme's own where None.

    Raises:
        OptionsError: there is neither corpus nor table, or both, or `clipping` is out of range.
        BundleError: the table is of another variant, or the variant computes NaN or infinity.
        CorpusError: too many experts were given too few tokens.
    """
    clipping.check()
    table = _table(bundle, manifest, corpus, table)
    require_coverage(
        table.coverage,
        fewest_tokens=clipping.fewest_tokens,
        most_thin=clipping.most_thin,
        documents=table.provenance.sequences,
    )
    source = manifest.variants[SOURCE]
    draft = Draft(graph_files(bundle, source), table, manifest.architecture, clipping, place)
    sensitivity = None
    if corpus is not None:
        sensitivity = _settled(draft, manifest, corpus, limits or DEFAULT_LIMITS[SCHEME])
    write_range_table(table, place / names.RANGES)
    path = place / names.WEIGHTS
    weights = FileRecord(path=_final(names.WEIGHTS), bytes=path.stat().st_size, sha256=draft.sha256)
    files = [*(graph.name for graph in draft.graphs.values()), names.RANGES]
    return replace(
        source,
        precision=SCHEME,
        encoder=_moved(source.encoder),
        decoder=_moved(source.decoder),
        files=(*(replace(record_of(place, place / name), path=_final(name)) for name in files), weights),
        quantization=_provenance(draft, table, clipping, sensitivity),
    )


def _settled(draft: Draft, manifest: Manifest, corpus: Corpus, limits: Limits) -> Sensitivity:
    """Spare what the limits need."""

    def run(graphs: Mapping[Role, Path], documents: int) -> PiecewiseRun:
        def text() -> Iterable[Batch]:
            # Alone, as for ranges: a decoder fetches the weights of each token's expert.
            return itertools.islice(corpus.batches(manifest.architecture, batch_size=1), documents)

        return PiecewiseRun(graphs, manifest.variants[SOURCE], text, scratch=draft.place)

    text = Text(
        judging=lambda: score(run(draft.graphs, JUDGED_DOCUMENTS)),
        ranking=lambda: score(run(draft.graphs, RANKED_DOCUMENTS)),
        exact=score(run(draft.source, JUDGED_DOCUMENTS)),
    )
    settled = settle(draft, limits, text)
    return measured(settled, settled.unspared, text.exact)


def _table(bundle: Path, manifest: Manifest, corpus: Corpus | None, table: RangeTable | None) -> RangeTable:
    if (corpus is None) == (table is None):
        raise OptionsError(f"{SCHEME} needs ranges of activations: give either a corpus or a table of ranges")
    if corpus is not None:
        return ranges.collect_ranges(bundle, manifest, corpus)
    assert table is not None
    table.require_variant(SOURCE, manifest.variants[SOURCE])
    return table


def _provenance(draft: Draft, table: RangeTable, clipping: Clipping, sensitivity: Sensitivity | None) -> Quantization:
    routers = {f"{each.layer}{ROUTER}classifier.weight" for each in draft.products if each.layer is not None}
    spared = frozenset(() if sensitivity is None else sensitivity.float_weights)
    return Quantization(
        scheme=SCHEME,
        source=SOURCE,
        formats={name: _FORMATS[axis] for name, axis in sorted(draft.axes.items()) if name not in spared},
        kept=tuple(sorted(routers | spared)),
        rounding="nearest",
        calibration=table.provenance.calibration,
        sensitivity=sensitivity,
        activations=ActivationRanges(
            method=clipping.method,
            fewest_tokens=clipping.fewest_tokens,
            coverage=table.coverage,
            thin_experts=thin_experts(table.coverage, clipping.fewest_tokens),
        ),
        producer=installed_versions(PACKAGES),
    )


def _final(name: str) -> str:
    return f"{names.variant_folder(SCHEME)}/{name}"


def _moved(graph: Graph) -> Graph:
    return replace(graph, file=_final(Path(graph.file).name))
