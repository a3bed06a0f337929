"""Collect a bundle's table of ranges from a corpus; what was interrupted goes on where it was.

A table costs a pass over the corpus and is worth keeping: any way of clipping can be tried on it without another.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir

from pointsman.backends.onnxruntime.session import Device
from pointsman.bundle import Architecture, Manifest, Role, Variant, read_manifest, verify_files
from pointsman.bundle.manifest import installed_versions
from pointsman.bundle.records import to_json
from pointsman.errors import BundleError, OutputError
from pointsman_calib.corpus.batches import Batch, batches
from pointsman_calib.corpus.text import Corpus
from pointsman_calib.graphs.products import Product, products
from pointsman_calib.graphs.runs import PiecewiseRun, graph_files
from pointsman_calib.progress import Progress
from pointsman_calib.ranges import DEFAULT_PERCENTILE
from pointsman_calib.ranges.observation import ModelObserver
from pointsman_calib.ranges.table import SCHEMA, Provenance, RangeTable, variant_digest, write_range_table

SOURCE: Final = "portable-float32"
DOCUMENTS_AT_ONCE: Final = 32  # run through a piece before the next; progress is saved after them
PACKAGES: Final = ("pointsman", "numpy", "onnxruntime", "onnxruntime-gpu")


def write_ranges(
    bundle: str | Path,
    corpus: Corpus,
    path: Path,
    *,
    percentile: float = DEFAULT_PERCENTILE,
    device: Device = "cpu",
) -> RangeTable:
    """Collect a bundle's table of ranges and write it; interrupted, it leaves `<path>.partial` and goes on from there.

    Args:
        bundle: with a `portable-float32` variant.
        corpus: what to run.
        path: the table's file; one that is there is replaced.
        percentile: percent of nonzero magnitudes that the percentile method keeps.
        device: where graphs run.

    Raises:
        BundleNotFoundError: there is no bundle.
        BundleError: it is damaged, lacks the variant, or computes NaN or infinity.
        OutputError: the table, or progress, cannot be written.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    verify_files(folder, portable_source(folder, manifest).files)
    partial = partial_file(path)
    table = collect_ranges(folder, manifest, corpus, percentile=percentile, progress=partial, device=device)
    write_range_table(table, path)
    partial.unlink(missing_ok=True)
    return table


def partial_file(path: Path) -> Path:
    """Where a table's progress is kept until it is whole."""
    return path.with_name(f"{path.name}.partial")


def collect_ranges(
    bundle: Path,
    manifest: Manifest,
    corpus: Corpus,
    *,
    percentile: float = DEFAULT_PERCENTILE,
    progress: Path | None = None,
    device: Device = "cpu",
) -> RangeTable:
    """Run the portable float32 variant over a corpus and observe the inputs of all its products.

    Args:
        bundle: with that variant, verified.
        manifest: the bundle's.
        corpus: what to run.
        percentile: percent of nonzero magnitudes that the percentile method keeps.
        progress: a file that is written after every 32 documents. If it is there, whole, and of the same variant and
            corpus, collection goes on from it.
        device: where graphs run.

    Raises:
        BundleError: the variant is missing, or computes NaN or infinity.
        OutputError: progress cannot be written.
    """
    variant = portable_source(bundle, manifest)
    observer = ModelObserver(variant_products(bundle, variant), manifest.architecture, variant.capacity)
    key = _fingerprint(variant, corpus)
    if progress is not None:
        _restore(observer, progress, key)
    with Progress("ranges", len(corpus.examples), done=observer.sequences) as shown:
        while documents := _next_documents(corpus, observer.sequences, manifest.architecture):
            _observe(observer, _run(graph_files(bundle, variant), variant, documents, device, shown), documents)
            if progress is not None:
                _save(observer, progress, key)
    return _table(observer, variant, corpus, percentile)


def portable_source(bundle: Path, manifest: Manifest) -> Variant:
    """The variant that is run.

    Raises:
        BundleError: the bundle lacks it.
    """
    if SOURCE not in manifest.variants:
        raise BundleError(
            f"{bundle} has no {SOURCE} variant to run; "
            "export it with `pointsman-export bundle --form portable --dtype float32`"
        )
    return manifest.variants[SOURCE]


def variant_products(bundle: Path, variant: Variant) -> list[Product]:
    """The products of both graphs."""
    files: dict[Role, str] = {"encoder": variant.encoder.file, "decoder": variant.decoder.file}
    return [product for role, file in files.items() for product in products(ir.load(bundle / file).graph, role)]


def _next_documents(corpus: Corpus, done: int, architecture: Architecture) -> list[Batch]:
    """The first that are not done, each alone."""
    alone = batches(
        corpus.examples[done : done + DOCUMENTS_AT_ONCE],
        batch_size=1,
        pad_id=architecture.pad_token_id,
        decoder_start_id=architecture.decoder_start_token_id,
    )
    return list(alone)


def _run(
    graphs: Mapping[Role, Path], variant: Variant, documents: Sequence[Batch], device: Device, shown: Progress
) -> PiecewiseRun:
    """A run of documents that shows how many of them it is through."""

    def progress(tokens: int) -> None:
        shown.update(len(documents) * tokens / work)

    run = PiecewiseRun(graphs, variant, lambda: documents, device=device, progress=progress)
    work = run.work
    return run


def _observe(observer: ModelObserver, run: PiecewiseRun, documents: Sequence[Batch]) -> None:
    for _, role, values in run.values(observer.taps()):
        observer.observe(role, values)
        del values
    for document in documents:
        observer.count(document)


def _table(observer: ModelObserver, variant: Variant, corpus: Corpus, percentile: float) -> RangeTable:
    provenance = Provenance(
        calibration=corpus.provenance(),
        sequences=observer.sequences,
        source_tokens=observer.source_tokens,
        target_tokens=observer.target_tokens,
        variant=SOURCE,
        variant_sha256=variant_digest(variant),
        percentile=percentile,
        versions=installed_versions(PACKAGES),
    )
    coverage = {layer: tuple(map(int, given)) for layer, given in observer.coverage.items()}
    return RangeTable(schema=SCHEMA, provenance=provenance, tensors=observer.rows(percentile), coverage=coverage)


def _fingerprint(variant: Variant, corpus: Corpus) -> str:
    """What progress depends on: the variant, the documents in order, their corruption."""
    order = [example.document_sha256 for example in corpus.examples]
    parts = [variant_digest(variant), order, to_json(corpus.provenance()), installed_versions(PACKAGES)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _save(observer: ModelObserver, progress: Path, key: str) -> None:
    partial = progress.with_name(f".{progress.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, key=np.array(key), **observer.state())
        partial.replace(progress)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"cannot write progress to {progress}: {error.strerror or error}") from error


def _restore(observer: ModelObserver, progress: Path, key: str) -> None:
    """Go on from a file of the same key; one that is absent, of another or damaged is as none."""
    try:
        with progress.open("rb") as file, np.load(file, allow_pickle=False) as state:
            if str(state["key"]) == key:
                observer.restore(state)
    except (OSError, EOFError, TypeError, ValueError, KeyError, zipfile.BadZipFile):
        return
