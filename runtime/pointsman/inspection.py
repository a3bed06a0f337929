"""What a bundle is, read from its manifest and checked against its files; no graph is loaded."""

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman.backends.choice import AnyEngine, Choice, Device, choose
from pointsman.bundle import (
    SOURCE_BLOCK,
    Architecture,
    FileRecord,
    GenerationSettings,
    Manifest,
    Parity,
    PlanRecord,
    Quantization,
    Stack,
    Variant,
    names,
    read_manifest,
    source_blocks,
    verify_files,
)
from pointsman.bundle.records import to_json
from pointsman.errors import BundleError, DeviceError, TokenizerError
from pointsman.text.reading import read_vocabulary
from pointsman.text.vocabulary import Counts
from pointsman.wording import counted, first_few

_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_FEW = 8  # ids
_LIBRARIES = 100_000_000  # bytes of Python, NumPy and ONNX Runtime
_NEXT_UNIT = 999.5  # what would be shown as 1e+03


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect` found.

    Attributes:
        bundle: The folder.
        manifest: What the bundle says of itself.
        damage: What is wrong with its files; None where every size and hash is right.
        vocabulary: What its ids are; None where it cannot be read.
        choice: What would run, and why.
        refusal: Why nothing would run, where there is no choice.
    """

    bundle: Path
    manifest: Manifest
    damage: str | None
    vocabulary: Counts | None
    choice: Choice | None
    refusal: str | None


def inspect_bundle(
    bundle: str | Path, *, device: Device = "auto", variant: str = "auto", engine: AnyEngine = "auto"
) -> Inspection:
    """Read a bundle's manifest, verify its files, and ask what would run.

    Raises:
        BundleNotFoundError: There is no bundle.
        BundleError: Its manifest is damaged, or it lacks the variant that was asked for.
        DeviceError: The device that was asked for is not available.
        OptionsError: The device or engine is unknown, or they contradict each other.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    choice, refusal = _chosen(manifest, device, variant, engine)
    return Inspection(folder, manifest, _damage(folder, manifest), _vocabulary(folder, manifest), choice, refusal)


def memory(
    manifest: Manifest, variant: str, *, inputs: int = 1, source: int = 0, rows: int = 1, target: int = 0
) -> int:
    """About how many bytes a variant takes on a CPU: its files, the libraries, and the keys and values of tokens.

    What the encoder needs while it computes, and a cache while it grows, comes on top (docs/memory.md).

    Args:
        manifest: The bundle's.
        variant: A variant's name.
        inputs: How many are filled together.
        source: Tokens of the longest of them.
        rows: Their beams or samples together.
        target: Tokens of the longest output.
    """
    tokens = inputs * SOURCE_BLOCK * source_blocks(source) + rows * target
    return _bytes(manifest.variants[variant].files) + _LIBRARIES + tokens * manifest.architecture.token_bytes


def _damage(folder: Path, manifest: Manifest) -> str | None:
    try:
        verify_files(folder, manifest.files())
    except BundleError as error:
        return str(error)
    return None


def _vocabulary(folder: Path, manifest: Manifest) -> Counts | None:
    try:
        return read_vocabulary(folder / names.TOKENIZER, manifest.extra_ids).counts()
    except TokenizerError:
        return None  # which the files' damage tells


def _chosen(manifest: Manifest, device: Device, variant: str, engine: AnyEngine) -> tuple[Choice | None, str | None]:
    """The choice; that nothing runs here is an answer where nothing particular was asked for, else an error."""
    try:
        return choose(manifest, device=device, variant=variant, engine=engine), None
    except (BundleError, DeviceError) as error:
        if {device, variant, engine} != {"auto"}:
            raise
        return None, str(error)


def as_json(inspection: Inspection) -> dict[str, Any]:
    """The inspection as one document: the manifest's keys, and those of what was found.

    `bytes` are on disk, `memory_bytes` of a variant on a CPU, `token_bytes` what each token adds to them (`memory`).
    """
    manifest = inspection.manifest
    document: dict[str, Any] = {"bundle": str(inspection.bundle), "bytes": _bytes(manifest.files())}
    document |= to_json(manifest)
    for name, variant in manifest.variants.items():
        document["variants"][name] |= {"bytes": _bytes(variant.files), "memory_bytes": memory(manifest, name)}
    return document | {
        "token_bytes": manifest.architecture.token_bytes,
        "damage": inspection.damage,
        "vocabulary": to_json(inspection.vocabulary),
        "choice": to_json(inspection.choice),
        "refusal": inspection.refusal,
    }


def as_text(inspection: Inspection) -> str:
    """The inspection for people: one subject a line, what belongs to it indented below."""
    return "\n".join(_lines(inspection)) + "\n"


def _lines(inspection: Inspection) -> Iterator[str]:
    manifest, choice = inspection.manifest, inspection.choice
    producer = ", ".join(f"{package} {version}" for package, version in manifest.producer.items())
    yield f"bundle        {inspection.bundle} ({size(_bytes(manifest.files()))})"
    yield f"written by    {producer} (schema {manifest.schema})"
    yield from _source_lines(manifest)
    yield from _architecture_lines(manifest.architecture)
    yield f"vocabulary    {_counts(inspection.vocabulary)}"
    yield f"limits        {manifest.limits.tokens} tokens in and out"
    yield (
        f"memory        on a CPU, a variant's size and {size(_LIBRARIES)}, and for each token in and out "
        f"{size(manifest.architecture.token_bytes)}"
    )
    yield f"generation    {_generation(manifest.generation)}"
    yield f"files         {inspection.damage or 'all sizes and hashes are right'}"
    yield "variants"
    for name, variant in manifest.variants.items():
        yield from _variant_lines(name, variant)
    if manifest.engines:
        yield "engines"
    for plan in manifest.engines:
        yield _plan_line(plan, current=manifest.is_current(plan))
    if choice:
        yield f"would run     {choice.variant} on {choice.device} with {choice.engine}"
        yield f"              because {choice.reason}"
        yield from _product_lines(manifest.variants[choice.variant], choice)
    else:
        yield f"cannot run    {inspection.refusal}"


def _product_lines(variant: Variant, choice: Choice) -> Iterator[str]:
    """By which kernels a variant of integers is multiplied here, and why."""
    if (choice.device, variant.form) == ("cpu", "fused") and variant.precision in ("int8", "int4"):
        engine = importlib.import_module("pointsman.backends.onnxruntime.weights.saturation")
        if engine.products_saturate():
            yield "              integers by other kernels: this processor's own products of bytes saturate"
        else:
            yield "              integers by this processor's own products of bytes, which are exact"


def _source_lines(manifest: Manifest) -> Iterator[str]:
    source = manifest.source
    yield f"source        {source.name} (sha256 {source.sha256[:12]}…)"
    left_out = f"all but {counted(len(source.unused), 'tensor')}: {first_few(source.unused)}"
    yield f"              tensors used: {left_out if source.unused else 'all'}"
    if not source.disagreements:
        yield "              its configuration agrees with its tensors"
    for sentence in source.disagreements:
        yield f"              disagreement: {sentence}"


def _architecture_lines(architecture: Architecture) -> Iterator[str]:
    a = architecture
    yield f"architecture  encoder of {_stack(a.encoder)}, decoder of {_stack(a.decoder)}"
    capacity = "" if a.expert_capacity is None else f" of capacity {a.expert_capacity}"
    yield f"              {counted(a.num_experts, 'expert')}{capacity} in each sparse block"
    yield f"              d_model {a.d_model}, d_ff {a.d_ff}, {a.num_heads} heads of {a.d_kv}, {a.vocab_size} ids"
    head, ffn = "tied" if a.tied_head else "separate", "gated " if a.gated else ""
    apart = ", an embedding for each stack" if a.separate_embeddings else ""
    yield f"              {ffn}{a.activation} feed-forward, {head} output head{apart}"


def _counts(vocabulary: Counts | None) -> str:
    if vocabulary is None:
        return "cannot be read"
    said = [counted(vocabulary.pieces, "piece"), counted(vocabulary.sentinels, "sentinel")]
    if vocabulary.added:
        said.append(f"{counted(len(vocabulary.added), 'added token')} ({first_few(vocabulary.added, _FEW)})")
    return ", ".join(said)


def _generation(settings: GenerationSettings | None) -> str:
    if settings is None:
        return "the checkpoint has no settings of its own"
    said = ", ".join(f"{name} {_ids(value)}" for name, value in settings.said().items())
    return f"unless a call says otherwise, as {settings.source} says: {said}"


def _ids(value: object) -> str:
    """Ids without the brackets of Python's tuples; the first few of many."""
    return first_few(value, _FEW) if isinstance(value, tuple) else str(value)


def _variant_lines(name: str, variant: Variant) -> Iterator[str]:
    capacity = "no capacity limit" if variant.capacity is None else f"capacity {variant.capacity}"
    yield f"  {name}  {size(_bytes(variant.files))}, {capacity}"
    yield from _quantization_lines(variant.quantization) if variant.quantization else _parity_lines(variant.parity)


def _parity_lines(parity: Parity) -> Iterator[str]:
    yield (
        f"    parity    {parity.max_error:.1e} of {parity.tolerance:.1e} allowed, worst at {parity.worst}; "
        f"{parity.expert_agreement:.2%} of tokens go to the same expert"
    )
    yield f"              against {parity.reference}"


def _quantization_lines(quantization: Quantization) -> Iterator[str]:
    """How a variant was made of another; that one's parity says nothing of it."""
    sensitivity = quantization.sensitivity
    rounding = "to nearest" if quantization.rounding == "nearest" else f"by {quantization.rounding}"
    yield f"    quantized from {quantization.source}, rounded {rounding}, {_calibrated(quantization)}"
    if sensitivity is None:
        yield "              what it loses was not measured; see pointsman-calib compare"
        return
    reached = sensitivity.reached
    yield (
        f"              on that text the loss changed by {reached.loss_increase:+z.3%}; "
        f"{reached.agreement:.2%} of span tokens agree, {reached.expert_agreement:.2%} of all tokens go to the same "
        "expert"
    )


def _calibrated(quantization: Quantization) -> str:
    """What a text was used for: weights that are rounded to nearest are rounded without regard to it."""
    if quantization.calibration is None:
        return "without a text"
    use = "calibrated" if quantization.rounding != "nearest" else "ranges observed"
    return f"{use} on {counted(len(quantization.calibration.documents), 'document')}"


def _plan_line(plan: PlanRecord, *, current: bool) -> str:
    options = [name.replace("_", " ") for name, chosen in to_json(plan.options).items() if chosen]
    about = [size(plan.file.bytes), *options] + ([] if current else ["out of date: its variant was written anew"])
    kind = f"{plan.flavour} {plan.version}, compute capability {plan.compute_capability}"
    return f"  {plan.variant} {plan.role}, {kind}  {', '.join(about)}"


def _stack(stack: Stack) -> str:
    return f"{counted(stack.layers, 'block')} ({len(stack.sparse_layers)} sparse)"


def _bytes(records: Iterable[FileRecord]) -> int:
    return sum(record.bytes for record in records)


def size(number_of_bytes: int) -> str:
    """A number of bytes in decimal units, such as `1.5 GB`."""
    value, unit = float(number_of_bytes), 0
    while value >= _NEXT_UNIT and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {_UNITS[unit]}"
