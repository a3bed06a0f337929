"""How `manifest.json` is written and read: under a checksum of its own, strictly, and free of contradictions."""

import hashlib
import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pointsman.bundle import names
from pointsman.bundle.architecture import Architecture
from pointsman.bundle.files import PULL, unreadable
from pointsman.bundle.interface import Dtype, TensorSpec, decoder_specs, encoder_specs
from pointsman.bundle.manifest import SCHEMA, Manifest
from pointsman.bundle.records import from_json, to_json
from pointsman.bundle.variants import Variant
from pointsman.bundle.writing import what_to_do
from pointsman.errors import BundleError, BundleNotFoundError, OutputError

_CHECKSUM: Final = "sha256"  # the key beside the manifest's own
_SPECS = {"encoder": encoder_specs, "decoder": decoder_specs}


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `manifest.json` into `folder`, replacing one that is there in a single step.

    Raises:
        OutputError: it cannot be written; what was there is as it was.
    """
    document = to_json(manifest)
    text = json.dumps(document | {_CHECKSUM: _checksum(document)}, indent=1, ensure_ascii=False)
    fresh = folder / f".{names.MANIFEST}.partial"
    try:
        fresh.write_text(text + "\n", encoding="utf-8")
        fresh.replace(folder / names.MANIFEST)
    except OSError as error:
        # Without the folder: while a bundle is made, it has a name that nobody knows.
        raise OutputError(f"cannot write {names.MANIFEST} ({error.strerror or error}); {what_to_do(error)}") from error
    finally:
        fresh.unlink(missing_ok=True)  # there only where it did not take its place


def read_manifest(bundle: Path) -> Manifest:
    """Read a bundle's manifest.

    Raises:
        BundleNotFoundError: there is no bundle at `bundle`.
        BundleError: it cannot be read, is not JSON, of a newer schema, was changed, has unknown, missing or mistyped
            keys, or contradicts itself (all of these are named).
    """
    path = bundle / names.MANIFEST
    try:
        content = _content(path)
        if content.startswith(names.LFS_POINTER):
            raise BundleError(f"{path} is a Git LFS pointer; {PULL}")
        document = json.loads(content.decode("utf-8"))
        problems = _checked(path, document)
        manifest, faults = from_json(Manifest, document)
    except BundleError:
        raise
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not valid JSON ({error}); export the bundle again") from error
    problems += faults
    if manifest is None or problems:
        then = ", and quantize it again" if any(".quantization." in problem for problem in problems) else ""
        raise BundleError(
            f"{path} is not a manifest of schema {SCHEMA}: {'; '.join(problems)}; export the bundle again{then}"
        )
    if sentences := list(_contradictions(manifest)):
        raise BundleError(f"{path} contradicts itself: {'; '.join(sentences)}; export the bundle again")
    return manifest


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleNotFoundError(
            f"{path.parent} is not a bundle (no {names.MANIFEST}); make one with `pointsman-export bundle`"
        ) from error
    except OSError as error:
        raise unreadable(error) from error


def _checked(path: Path, document: Any) -> list[str]:  # noqa: ANN401 - JSON is any of six types
    """Refuse other schemas and what was changed, take the checksum out, and say if there was none."""
    if not isinstance(document, dict):
        return []
    schema = document.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise BundleError(
            f"{path} has schema {schema} and this pointsman reads {SCHEMA}; upgrade pointsman or export again"
        )
    if isinstance(schema, int) and schema < SCHEMA:
        raise BundleError(
            f"{path} has schema {schema} and this pointsman reads {SCHEMA}, in which decoder steps have another "
            "interface; export the bundle again with `pointsman-export bundle`"
        )
    if _CHECKSUM not in document:
        return [f"{_CHECKSUM} is missing"]
    if document.pop(_CHECKSUM) != _checksum(document):
        raise BundleError(f"{path} was changed (its {_CHECKSUM} differs); export the bundle again")
    return []


def _checksum(document: dict[str, Any]) -> str:
    """Hex digest of the canonical JSON, in which neither the order of keys nor white space counts."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """A sentence for each."""
    if manifest.limits.tokens < 1:
        yield f"limits.tokens must be at least 1, not {manifest.limits.tokens}"
    yield from _wrong_ids(manifest)
    for record in manifest.files():
        if not _is_inside(record.path):
            yield f"{record.path!r} must be a path inside the bundle"
    if {record.path for record in manifest.tokenizer}.isdisjoint(names.VOCABULARIES):
        yield f"tokenizer lists neither {' nor '.join(names.VOCABULARIES)}"
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
    for token in manifest.generation.token_ids() if manifest.generation else ():
        if not 0 <= token < vocabulary:
            yield f"generation has the id {token}, and ids are from 0 to {vocabulary - 1}"
    if not 0 <= manifest.extra_ids <= vocabulary:
        yield f"extra_ids must be from 0 to {vocabulary}, not {manifest.extra_ids}"


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and path.isprintable() and not path.startswith("/") and ".." not in parts


def _wrong_graphs(variant: Variant, architecture: Architecture) -> Iterator[str]:
    listed = {record.path for record in variant.files}
    dtype = _dtype(variant)
    graphs = [
        ("encoder", variant.encoder, encoder_specs(architecture, dtype)),
        ("decoder", variant.decoder, decoder_specs(architecture, dtype)),
    ]
    if variant.step is not None:
        graphs.append(("step", variant.step, decoder_specs(architecture, dtype, positions=1)))
    for name, graph, (inputs, outputs) in graphs:
        if graph.file not in listed:
            yield f"{name}.file {graph.file!r} is not among its variant's files"
        for side, said, due in (("inputs", graph.inputs, inputs), ("outputs", graph.outputs, outputs)):
            if said != due:
                yield f"{name}.{side} are not those of the architecture ({_first_difference(said, due)})"


def _dtype(variant: Variant) -> Dtype:
    """Of what passes from graph to graph: quantized variants keep it in float32."""
    return variant.precision if variant.precision in ("bfloat16", "float16") else "float32"


def _first_difference(said: tuple[TensorSpec, ...], due: tuple[TensorSpec, ...]) -> str:
    one, other = next(pair for pair in zip_longest(said, due) if pair[0] != pair[1])
    return f"{_shown(one)} instead of {_shown(other)}"


def _shown(spec: TensorSpec | None) -> str:
    return f"{spec.name!r} of {spec.dtype} {list(spec.axes)}" if spec else "nothing"
