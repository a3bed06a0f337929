"""Whether what a manifest says in one place agrees with what it says in the others."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import PurePosixPath

from pointsman.bundle.architecture import Architecture
from pointsman.bundle.interface import Dtype, Role, TensorSpec, decoder_specs, encoder_specs
from pointsman.bundle.manifest import SCHEMA, Manifest
from pointsman.bundle.names import VOCABULARIES
from pointsman.bundle.variants import Variant

_SPECS = {"encoder": encoder_specs, "decoder": decoder_specs}


def contradictions(manifest: Manifest) -> Iterator[str]:
    """A sentence for each."""
    if manifest.schema != SCHEMA:
        yield f"schema must be {SCHEMA}, not {manifest.schema}"
    if manifest.limits.tokens < 1:
        yield f"limits.tokens must be at least 1, not {manifest.limits.tokens}"
    yield from _wrong_ids(manifest)
    for record in manifest.files():
        if not _is_inside(record.path):
            yield f"{record.path!r} must be a path inside the bundle"
    if {record.path for record in manifest.tokenizer}.isdisjoint(VOCABULARIES):
        yield f"tokenizer lists neither {' nor '.join(VOCABULARIES)}"
    if not manifest.variants:
        yield "variants has none"
    for name, variant in manifest.variants.items():
        own = f"{variant.form}-{variant.precision}"
        if name != own:
            yield f"variants.{name!r} must be named {own}"
        for sentence in _wrong_graphs(variant, manifest.architecture):
            yield f"variants.{own}.{sentence}"


def _wrong_ids(manifest: Manifest) -> Iterator[str]:
    architecture, vocabulary = manifest.architecture, manifest.architecture.vocab_size
    for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
        token = getattr(architecture, name)
        if not 0 <= token < vocabulary:
            yield f"architecture.{name} must be from 0 to {vocabulary - 1}, not {token}"
    if not 0 <= manifest.extra_ids <= vocabulary:
        yield f"extra_ids must be from 0 to {vocabulary}, not {manifest.extra_ids}"


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and path.isprintable() and not path.startswith("/") and ".." not in parts


def _wrong_graphs(variant: Variant, architecture: Architecture) -> Iterator[str]:
    listed = {record.path for record in variant.files}
    roles: tuple[Role, ...] = ("encoder", "decoder")
    for role in roles:
        graph, (inputs, outputs) = variant.graph(role), _SPECS[role](architecture, _dtype(variant))
        if graph.file not in listed:
            yield f"{role}.file {graph.file!r} is not among its variant's files"
        for side, said, due in (("inputs", graph.inputs, inputs), ("outputs", graph.outputs, outputs)):
            if said != due:
                yield f"{role}.{side} are not those of the architecture ({_first_difference(said, due)})"


def _dtype(variant: Variant) -> Dtype:
    """Of what passes from graph to graph: quantized variants keep it in float32."""
    return variant.precision if variant.precision in ("bfloat16", "float16") else "float32"


def _first_difference(said: tuple[TensorSpec, ...], due: tuple[TensorSpec, ...]) -> str:
    one, other = next(pair for pair in zip_longest(said, due) if pair[0] != pair[1])
    return f"{_shown(one)} instead of {_shown(other)}"


def _shown(spec: TensorSpec | None) -> str:
    return f"{spec.name!r} of {spec.dtype} {list(spec.axes)}" if spec else "nothing"
