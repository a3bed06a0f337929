"""Checkpoint to bundle: derive, write weights and graphs, check parity, and only then let the bundle appear."""

import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import onnx_ir as ir
from tqdm import tqdm

from pointsman.bundle import (
    ROLES,
    SCHEMA,
    Architecture,
    Dtype,
    FileRecord,
    Form,
    GenerationSettings,
    Graph,
    Limits,
    Manifest,
    Parity,
    Source,
    TensorSpec,
    Variant,
    decoder_specs,
    encoder_specs,
    names,
    record_of,
    write_manifest,
)
from pointsman.bundle.manifest import installed_versions
from pointsman.bundle.writing import check_room, check_writable, is_vacant, one_sentence, replacing, resolved
from pointsman.errors import OptionsError, OutputExistsError
from pointsman.text.tokenizer import Tokenizer
from pointsman.wording import as_text, first_few
from pointsman_export.architecture import Derivation, derive_from, expected_tensors, generation_from, refuse_unused
from pointsman_export.checkpoint import (
    NUMPY_DTYPES,
    CanonicalReader,
    Checkpoint,
    Fingerprinted,
    TensorReader,
    vocabulary,
)
from pointsman_export.graphs.decoder import decoder_graph
from pointsman_export.graphs.encoder import encoder_graph
from pointsman_export.graphs.weights import WeightFile, plan, write_weights
from pointsman_export.kept import Replaced
from pointsman_export.network import Build, Precision
from pointsman_export.network.ambient import pinned
from pointsman_export.verify.parity import Written, verify
from pointsman_export.verify.sample import Experts

Capacity = Literal["reference", "none"] | int
FEWEST_TOKENS = 2
PACKAGES = ("pointsman", "torch", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu")


def export_bundle(
    source: str | Path,
    output: str | Path,
    *,
    forms: Sequence[Form] = ("fused", "portable"),
    dtype: Dtype = "float32",
    capacity: Capacity | None = None,
    max_tokens: int = 2048,
    tokenizer: str | Path | None = None,
    base: str | Path | None = None,
    force: bool = False,
    discard: bool = False,
    ignore_unused: bool = False,
    ignore_generation_config: bool = False,
    verify: Experts = "sample",
    revision: str | None = None,
    token: str | None = None,
) -> Manifest:
    """Export a checkpoint.

    Memory stays bounded by the largest tensor and, while parity is checked, by the largest block.

    Args:
        source: a Hugging Face folder or hub id, or a folder that T5X wrote; it may hold an adapter.
        output: the bundle's folder.
        forms: which graphs to write; they share their weights.
        dtype: of weights, matrix products and caches.
        capacity: tokens an expert accepts from one sequence: the checkpoint's own, no limit, or a number. By default
            the checkpoint's own, and no limit where T5X wrote it: it counts over groups of a whole batch.
        max_tokens: longest input and output that requests may have.
        tokenizer: the vocabulary, as a file, a folder or a hub id; the one in the checkpoint's folder by default.
        base: of an adapter, as a folder or hub id; the weights beside it by default, or what its configuration names.
        force: whether to replace a bundle or an empty folder at `output`. Quantized variants and plans of the bundle
            are kept where the variants that they were made from come out the same.
        discard: whether those that do not may be lost.
        ignore_unused: whether to leave out tensors that no Switch Transformer has.
        ignore_generation_config: whether to leave out the checkpoint's settings of generating.
        verify: which experts of each layer are compared with the checkpoint's: a few that are chosen by the
            layer's name, or all of them, which takes as long again as writing them.
        revision: of a hub id.
        token: for a hub id.

    Returns:
        the bundle's manifest.

    Raises:
        CheckpointError: the checkpoint cannot be exported.
        TokenizerError: it has no usable vocabulary.
        OptionsError: `capacity` or `max_tokens` is too small, `capacity` is a checkpoint's own that has none, or
            `output` and the checkpoint hold each other.
        OutputExistsError: `output` is there and `force` is not given, or it is neither a bundle nor empty, or holds
            what would be lost.
        OutputError: the bundle cannot be written.
        ParityError: the graphs do not compute what the checkpoint does; nothing is left behind.
    """
    target = Path(output)
    _check_vacant(target, force=force)
    _check_numbers(capacity, max_tokens)
    check_writable(target)
    replaced = Replaced.at(target, discard=discard) if force else None
    if replaced is not None:
        replaced.check([f"{form}-{dtype}" for form in forms])
    with pinned(), Checkpoint.open(source, base=base, revision=revision, token=token) as checkpoint:
        for place in checkpoint.folders:
            _check_apart(target, place)
        vocabulary_place = vocabulary.locate(checkpoint.folders, tokenizer, token=token)
        derivation = derive_from(checkpoint)
        if not ignore_unused:
            refuse_unused(derivation.unused)
        generation = generation_from(
            checkpoint, derivation.architecture, max_tokens=max_tokens, ignore=ignore_generation_config
        )
        check_room(target, _bytes(derivation.architecture, dtype))
        limit = _limit(capacity, derivation.architecture)
        _say([*_notes(derivation), *_generation_notes(generation), *_capacity_notes(capacity, derivation.architecture)])
        loaded = Tokenizer.load(vocabulary_place)
        loaded.check_model(derivation.architecture)
        builds = [Build(derivation.architecture, form, Precision.of(dtype), limit) for form in forms]
        with replacing(target) as folder:
            records = _write_vocabulary(loaded, folder)
            reader = CanonicalReader(checkpoint, derivation.names)
            fingerprinted = Fingerprinted(reader)
            weights = _write_weights(builds[0], fingerprinted, folder)
            variants = _write_variants(builds, reader, weights, folder, verify)
            manifest = Manifest(
                schema=SCHEMA,
                producer=installed_versions(PACKAGES),
                source=_source(source, checkpoint, derivation, fingerprinted.sha256),
                architecture=derivation.architecture,
                limits=Limits(tokens=max_tokens),
                extra_ids=len(loaded.sentinel_ids),
                tokenizer=records,
                variants=variants,
                generation=generation,
            )
            if replaced is not None:
                manifest, lost = replaced.kept(manifest, folder)
                _say(f"{one} does not fit what was exported, and is not kept: make it again" for one in lost)
            write_manifest(manifest, folder)
    return manifest


def _check_numbers(capacity: Capacity | None, max_tokens: int) -> None:
    if isinstance(capacity, int) and capacity < 1:
        raise OptionsError(f"capacity {capacity} would drop every token; use reference, none, or a number from 1")
    if max_tokens < FEWEST_TOKENS:
        raise OptionsError(f"max_tokens {max_tokens} has no room for a token and an end; use {FEWEST_TOKENS} or more")


def _check_vacant(target: Path, *, force: bool) -> None:
    """Refuse to replace what was not asked for, or what no export has written."""
    with one_sentence(target):
        place = resolved(target)
        if not os.path.lexists(place) or (os.path.ismount(place) and is_vacant(place)):
            return
        if not place.is_dir() or not (is_vacant(place) or (place / names.MANIFEST).is_file()):
            raise OutputExistsError(
                f"{target} exists and is neither a bundle nor an empty folder, and `force=True` replaces nothing "
                "else; choose another output folder"
            )
        if not force:
            raise OutputExistsError(f"{target} exists; choose another output folder, or replace it with `force=True`")


def _check_apart(target: Path, checkpoint: Path) -> None:
    place, source = resolved(target), resolved(checkpoint)
    if place.is_relative_to(source) or source.is_relative_to(place):
        raise OptionsError(f"{target} is, holds or lies in the checkpoint's folder; choose another output folder")


def _say(notes: Iterable[str]) -> None:
    for sentence in notes:
        tqdm.write(f"note: {sentence}", file=sys.stderr)


def _notes(derivation: Derivation) -> Iterator[str]:
    """What a person should know of the checkpoint before trusting its bundle."""
    yield from derivation.disagreements
    if derivation.unneeded:
        yield f"the model does not need these tensors ({len(derivation.unneeded)}): {first_few(derivation.unneeded)}"
    if derivation.unused:
        yield f"these tensors were left out ({len(derivation.unused)}): {first_few(derivation.unused)}"


def _generation_notes(settings: GenerationSettings | None) -> Iterator[str]:
    if settings is not None:
        said = ", ".join(f"{name} {value}" for name, value in settings.said().items())
        yield f"{settings.source} says how to generate, which holds where a call says nothing else: {said}."


def _bytes(architecture: Architecture, dtype: Dtype) -> int:
    """About the size of a bundle: graphs are small, and routers and norms wider than the rest."""
    return sum(math.prod(shape) for shape in expected_tensors(architecture).values()) * NUMPY_DTYPES[dtype].itemsize


def _limit(capacity: Capacity | None, architecture: Architecture) -> int | None:
    if capacity is None:
        return architecture.expert_capacity
    if capacity == "reference":
        if architecture.expert_capacity is None:
            raise OptionsError(
                "T5X counts an expert's capacity over groups of a whole batch, so the checkpoint has no number for a "
                "sequence; use `capacity='none'`, or a number"
            )
        return architecture.expert_capacity
    return None if capacity == "none" else capacity


def _capacity_notes(capacity: Capacity | None, architecture: Architecture) -> Iterator[str]:
    if capacity is None and architecture.expert_capacity is None:
        yield "T5X has no capacity for a sequence: experts accept every token (capacity none)"


def _write_weights(build: Build, reader: TensorReader, folder: Path) -> WeightFile:
    """Write the weights that all forms share."""
    place = folder / names.variant_folder(build.precision.name)
    place.mkdir(parents=True)
    entries = plan(build.architecture, build.precision.name)
    total = sum(entry.bytes for entry in entries)
    with tqdm(total=total, desc="weights", unit="B", unit_scale=True, disable=None) as bar:
        return write_weights(entries, reader, place / names.WEIGHTS, progress=bar.update)


def _write_variants(
    builds: Sequence[Build], reader: TensorReader, weights: WeightFile, folder: Path, experts: Experts
) -> dict[str, Variant]:
    """Write each form's graphs beside the weights, and check all forms at once."""
    record = FileRecord(
        path=weights.path.relative_to(folder).as_posix(), bytes=weights.path.stat().st_size, sha256=weights.sha256
    )
    written = [_write_graphs(build, weights) for build in builds]
    parities = _verified(written, reader, experts)
    variants = (_variant(graphs, parity, record, folder) for graphs, parity in zip(written, parities, strict=True))
    return {f"{variant.form}-{variant.precision}": variant for variant in variants}


def _write_graphs(build: Build, weights: WeightFile) -> Written:
    encoder, decoder = (weights.path.parent / names.graph_name(build.form, role) for role in ROLES)
    ir.save(encoder_graph(build, weights.tensors), encoder)
    ir.save(decoder_graph(build, weights.tensors), decoder)
    if build.form == "fused":
        return Written(build, encoder, decoder)
    step = decoder.with_name(names.step_name(build.form))
    ir.save(decoder_graph(build.of_one_position, weights.tensors), step)
    return Written(build, encoder, decoder, step)


def _verified(written: Sequence[Written], reader: TensorReader, experts: Experts) -> list[Parity]:
    architecture = written[0].build.architecture
    steps = architecture.encoder.layers + 2 * architecture.decoder.layers + 1
    with tqdm(total=steps, desc="parity", disable=None) as bar:
        return verify(written, reader, progress=lambda _: bar.update(), experts=experts)


def _variant(written: Written, parity: Parity, weights: FileRecord, folder: Path) -> Variant:
    build, dtype = written.build, written.build.precision.name
    encoder, decoder = record_of(folder, written.encoder), record_of(folder, written.decoder)
    steps = () if written.step is None else (record_of(folder, written.step),)
    of_one_position = decoder_specs(build.architecture, dtype, positions=1)
    return Variant(
        form=build.form,
        precision=dtype,
        capacity=build.capacity,
        encoder=_graph(encoder, encoder_specs(build.architecture, dtype)),
        decoder=_graph(decoder, decoder_specs(build.architecture, dtype)),
        step=next((_graph(step, of_one_position) for step in steps), None),
        files=(encoder, decoder, *steps, weights),
        parity=parity,
    )


def _graph(file: FileRecord, specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]) -> Graph:
    inputs, outputs = specs
    return Graph(file=file.path, inputs=inputs, outputs=outputs)


def _write_vocabulary(tokenizer: Tokenizer, folder: Path) -> tuple[FileRecord, ...]:
    place = folder / names.TOKENIZER
    place.mkdir()
    return tuple(record_of(folder, file) for file in tokenizer.save(place))


def _source(source: str | Path, checkpoint: Checkpoint, derivation: Derivation, sha256: str) -> Source:
    # A folder's name says enough; where it lay on the exporting machine is nobody's business.
    name = Path(source).resolve().name if Path(source).exists() else str(source)
    if checkpoint.adapter not in (None, checkpoint.path):
        name = f"{name} on {checkpoint.path.resolve().name}"
    return Source(
        name=as_text(name),
        sha256=sha256,
        disagreements=derivation.disagreements,
        unused=tuple(sorted([*derivation.unneeded, *derivation.unused])),
    )
