"""Write the variant: ranges, then weights, then graphs that read them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import onnx_ir as ir
from tqdm import tqdm

from pointsman.errors import OptionsError
from pointsman.manifest import (
    ActivationRanges,
    FileRecord,
    Graph,
    Manifest,
    Quantization,
    Role,
    Scheme,
    Variant,
    record_of,
)
from pointsman_calib import ranges
from pointsman_calib.corpus import Corpus
from pointsman_calib.coverage import require_coverage, thin_experts
from pointsman_calib.external_data import in_file_order
from pointsman_calib.producer import installed_versions
from pointsman_calib.products import ROUTER, Product, products
from pointsman_calib.qdq.clipping import DEFAULT, Clipping, activation_scales, expert_factors
from pointsman_calib.qdq.graphs import rewrite
from pointsman_calib.qdq.weights import output_axes, write_weights
from pointsman_calib.range_table import RangeTable, write_range_table

SCHEME: Final[Scheme] = "int8-qdq"
NAME: Final = f"portable-{SCHEME}"
SOURCE: Final = ranges.SOURCE
PACKAGES: Final = ("pointsman", "numpy", "onnx-ir")
TABLE: Final = "ranges.json"
ROLES: Final[tuple[Role, Role]] = ("encoder", "decoder")
_FORMATS: Final = {0: "int8 by row", 1: "int8 by column", 2: "int8 by expert and column"}


def write_variant(
    bundle: Path,
    manifest: Manifest,
    place: Path,
    *,
    corpus: Corpus | None = None,
    table: RangeTable | None = None,
    clipping: Clipping = DEFAULT,
) -> Variant:
    """Write weights, graphs and the table of ranges.

    Products with weights take INT8 on both sides; the embedding is INT8; routers, norms, softmax and all else stay in
    float32.

    Args:
        bundle: with a `portable-float32` variant.
        manifest: the bundle's.
        place: where to write; it becomes `variants/int8-qdq`.
        corpus: what to observe ranges on.
        table: ranges observed before, in the corpus's place.
        clipping: how ranges become scales.

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
    models = {role: ir.load(bundle / graph.file) for role, graph in zip(ROLES, _graphs(source), strict=True)}
    found = [product for role, model in models.items() for product in products(model.graph, role)]
    path = place / "weights.bin"
    axes = output_axes(found)
    factors = expert_factors(table, found, manifest.architecture, clipping)
    with tqdm(total=_size(models), desc=SCHEME, unit="B", unit_scale=True, disable=None) as bar:
        quantized, kept, sha256 = write_weights(models.values(), axes, factors, path, progress=bar.update)
    scales = activation_scales(table, found, clipping.method)
    for role, graph in zip(ROLES, _graphs(source), strict=True):
        mine = [product for product in found if product.role == role]
        rewrite(models[role], mine, scales, quantized, kept)
        ir.save(models[role], place / Path(graph.file).name)
    write_range_table(table, place / TABLE)
    weights = FileRecord(path=_final(path.name), bytes=path.stat().st_size, sha256=sha256)
    names = [*(Path(graph.file).name for graph in _graphs(source)), TABLE]
    return replace(
        source,
        precision=SCHEME,
        encoder=_moved(source.encoder),
        decoder=_moved(source.decoder),
        files=(*(replace(record_of(place, place / name), path=_final(name)) for name in names), weights),
        quantization=_provenance(axes, found, table, clipping),
    )


def _table(bundle: Path, manifest: Manifest, corpus: Corpus | None, table: RangeTable | None) -> RangeTable:
    if (corpus is None) == (table is None):
        raise OptionsError(f"{SCHEME} needs ranges of activations: give either a corpus or a table of ranges")
    if corpus is not None:
        return ranges.collect_ranges(bundle, manifest, corpus)
    assert table is not None
    table.require_variant(SOURCE, manifest.variants[SOURCE])
    return table


def _provenance(axes: Mapping[str, int], found: list[Product], table: RangeTable, clipping: Clipping) -> Quantization:
    routers = sorted({f"{product.layer}{ROUTER}classifier.weight" for product in found if product.layer is not None})
    return Quantization(
        scheme=SCHEME,
        source=SOURCE,
        formats={name: _FORMATS[axis] for name, axis in sorted(axes.items())},
        kept=tuple(routers),
        rounding="nearest",
        calibration=table.provenance.calibration,
        activations=ActivationRanges(
            method=clipping.method,
            fewest_tokens=clipping.fewest_tokens,
            coverage=table.coverage,
            thin_experts=thin_experts(table.coverage, clipping.fewest_tokens),
        ),
        producer=installed_versions(PACKAGES),
    )


def _graphs(variant: Variant) -> tuple[Graph, Graph]:
    return variant.encoder, variant.decoder


def _size(models: Mapping[Role, ir.Model]) -> int:
    return sum(tensor.nbytes for _, tensor in in_file_order(models.values()))


def _final(name: str) -> str:
    return f"variants/{SCHEME}/{name}"


def _moved(graph: Graph) -> Graph:
    return replace(graph, file=_final(Path(graph.file).name))
