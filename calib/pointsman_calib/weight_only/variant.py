"""Write a weight-only variant: every tensor of the float one, quantized or as it is, and graphs that read it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import onnx_ir as ir
from tqdm import tqdm

from pointsman.manifest import FileRecord, Graph, Manifest, Quantization, Scheme, Variant, record_of
from pointsman_calib.corpus import Corpus
from pointsman_calib.external_data import in_file_order
from pointsman_calib.producer import installed_versions
from pointsman_calib.weight_only.graphs import (
    Rounding,
    Weight,
    embedding_format,
    quantizable,
    rewrite,
    write_weights,
)
from pointsman_calib.weight_only.input_statistics import GptqRounding
from pointsman_calib.weight_rounding import BlockFormat, round_blocks

SOURCE: Final = "fused-float32"
HEAD: Final = "lm_head.weight"
PACKAGES: Final = ("pointsman", "numpy", "onnx-ir")


def write_variant(bundle: Path, manifest: Manifest, scheme: Scheme, corpus: Corpus | None, place: Path) -> Variant:
    """Write weights and graphs.

    Norms, biases and routers stay in float32; the embedding and the head are INT8 in both schemes. Without a corpus,
    weights are rounded to nearest and memory is bounded by the largest tensor; with one, by GPTQ (Frantar et al.
    2022), which runs the float variant.

    Args:
        bundle: with a `fused-float32` variant.
        manifest: the bundle's.
        scheme: `int8` or `int4`.
        corpus: what to round for; None rounds to nearest.
        place: where to write; it becomes `variants/<scheme>`.
    """
    source = manifest.variants[SOURCE]
    files = (source.encoder.file, source.decoder.file)
    models = [ir.load(bundle / file) for file in files]
    weights = quantizable(models)
    formats = {name: form for name, weight in weights.items() if (form := block_format(weight, scheme)) is not None}
    path = place / "weights.bin"
    rounding = _rounding(bundle, manifest, models, weights, corpus)
    total = sum(tensor.nbytes for _, tensor in in_file_order(models))
    with tqdm(total=total, desc=scheme, unit="B", unit_scale=True, disable=None) as bar:
        rounded, kept, sha256 = write_weights(models, formats, weights, rounding, path, progress=bar.update)
    for model, file in zip(models, files, strict=True):
        rewrite(model, rounded, kept)
        ir.save(model, place / Path(file).name)
    final = f"variants/{scheme}"
    weight_record = FileRecord(path=f"{final}/{path.name}", bytes=path.stat().st_size, sha256=sha256)
    records = [replace(record_of(place, place / Path(file).name), path=f"{final}/{Path(file).name}") for file in files]
    return replace(
        source,
        precision=scheme,
        encoder=_moved(source.encoder, final),
        decoder=_moved(source.decoder, final),
        files=(*records, weight_record),
        quantization=_provenance(scheme, formats, weights, corpus),
    )


def _rounding(
    bundle: Path,
    manifest: Manifest,
    models: Sequence[ir.Model],
    weights: Mapping[str, Weight],
    corpus: Corpus | None,
) -> Rounding:
    if corpus is None:
        return lambda _, weight, form: round_blocks(weight, form)
    order = [(name, weights[name].inputs) for name, _ in in_file_order(models) if name in weights]
    return GptqRounding(
        bundle, manifest, manifest.variants[SOURCE], order, lambda: corpus.batches(manifest.architecture)
    )


def block_format(weight: Weight, scheme: Scheme) -> BlockFormat | None:
    """How a weight is quantized under a scheme; None keeps it in float."""
    if weight.gathered or weight.transposed or weight.name == HEAD:
        return embedding_format(weight)
    if scheme == "int4":
        return BlockFormat(bits=4, block_size=32, search=True)
    # The largest blocks that leave no padding; below that, padding costs less than scales.
    size = next((size for size in (128, 64) if weight.inputs % size == 0), 32)
    return BlockFormat(bits=8, block_size=size)


def _moved(graph: Graph, place: str) -> Graph:
    return replace(graph, file=f"{place}/{Path(graph.file).name}")


def _provenance(
    scheme: Scheme, formats: Mapping[str, BlockFormat], weights: Mapping[str, Weight], corpus: Corpus | None
) -> Quantization:
    return Quantization(
        scheme=scheme,
        source=SOURCE,
        formats={name: f"int{form.bits} in blocks of {form.block_size}" for name, form in sorted(formats.items())},
        kept=tuple(sorted(weights.keys() - formats.keys())),
        rounding="nearest" if corpus is None else "GPTQ",
        calibration=None if corpus is None else corpus.provenance(),
        activations=None,
        producer=installed_versions(PACKAGES),
    )
