"""The contract between exporter, calibrator and runtime: what a bundle is, as frozen dataclasses and `manifest.json`.

A bundle is a directory::

    manifest.json
    tokenizer/spiece.model
    variants/<precision>/weights.bin              every tensor once, shared by all graphs of that precision
    variants/<precision>/<form>.encoder.onnx
    variants/<precision>/<form>.decoder.onnx
    engines/<flavour>-sm<capability>/<variant>/<role>.plan    such as engines/tensorrt-rtx-sm89/portable-float32/

Tensor names and axes are spelled here and nowhere else. Readers refuse newer schemas and unknown keys, and report every
problem at once.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pointsman.errors import BundleError, BundleNotFoundError, OutputError
from pointsman.records import from_json, to_json

SCHEMA = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"
ENGINES = "engines"
WEIGHTS = "weights.bin"

Form = Literal["portable", "fused"]
Dtype = Literal["float32", "bfloat16", "float16"]
Precision = Literal["float32", "bfloat16", "float16", "int8", "int4", "int8-qdq"]
Scheme = Literal["int8", "int4", "int8-qdq"]
Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]
Axis = str | int
Flavour = Literal["tensorrt", "tensorrt-rtx"]
Role = Literal["encoder", "decoder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """An encoder's or decoder's blocks.

    Attributes:
        layers: how many blocks.
        sparse_layers: numbers of the blocks whose feed-forward network is a Mixture of Experts.
    """

    layers: int
    sparse_layers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The sizes and constants of one Switch Transformer.

    Attributes:
        vocab_size: rows of the embedding.
        d_model: width of the residual stream.
        d_kv: width of one attention head.
        d_ff: inner width of a feed-forward network.
        num_heads: attention heads.
        num_experts: experts of each sparse block; 0 where no block is sparse.
        encoder: the encoder's blocks.
        decoder: the decoder's blocks.
        gated: whether a feed-forward network multiplies two input projections (GEGLU).
        activation: of the (first) input projection; `gelu_tanh` is T5 v1.1's `gelu_new`.
        router_bias: whether routers have a bias.
        tied_head: whether the output head is the embedding; its input is then scaled by d_model ** -0.5.
        relative_buckets: buckets of the relative position bias.
        relative_max_distance: tokens; distances from here on share the last bucket.
        layer_norm_epsilon: added to the mean square in norms.
        expert_capacity: tokens that an expert accepts from one sequence.
        pad_token_id: id of padding.
        eos_token_id: id that ends a sequence.
        decoder_start_token_id: id that the decoder starts from.
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_heads: int
    num_experts: int
    encoder: Stack
    decoder: Stack
    gated: bool
    activation: Activation
    router_bias: bool
    tied_head: bool
    relative_buckets: int
    relative_max_distance: int
    layer_norm_epsilon: float
    expert_capacity: int
    pad_token_id: int
    eos_token_id: int
    decoder_start_token_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """An input or output of a graph: its name, dtype, and axes (a number, or the name of a dynamic axis)."""

    name: str
    dtype: Literal["float32", "bfloat16", "float16", "int64"]
    axes: tuple[Axis, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """An ONNX file and its interface; `file` is relative to the bundle."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file of the bundle; `path` is relative to it, with forward slashes."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far a written graph is from the torch modules, measured block by block when it was written.

    Attributes:
        reference: what it was compared with.
        max_error: the largest absolute error of any block's output, relative to that output's largest magnitude.
        worst: the value where it was found.
        tolerance: what it had to stay below.
        expert_agreement: share of tokens for which graph and reference chose the same expert.
    """

    reference: str
    max_error: float
    worst: str
    tolerance: float
    expert_agreement: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The documents that a quantized variant was fitted to.

    Attributes:
        documents: sha256 of the text of each, sorted; none of them may be evaluated on.
        seed: of the span corruption.
        window: the most encoder inputs.
    """

    documents: tuple[str, ...]
    seed: int
    window: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationRanges:
    """How a variant's activations were brought to INT8, and how well its experts were seen.

    Attributes:
        method: which range was clipped to: `minmax`, `percentile`, `entropy` or `mse`.
        fewest_tokens: an expert that was given fewer has no range of its own but its layer's.
        coverage: for each sparse layer, the tokens that each expert was given.
        thin_experts: for each sparse layer, the experts that were given too few.
    """

    method: str
    fewest_tokens: int
    coverage: dict[str, tuple[int, ...]]
    thin_experts: dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertCoverage:
    """Tokens of the calibration text that experts were given, by sparse layer.

    Attributes:
        fewest_tokens: an expert that was given fewer is thin: its weights were rounded without regard to the text.
        tokens: for each expert.
        thin: the numbers of the thin experts, of layers that have any.
    """

    fewest_tokens: int
    tokens: dict[str, tuple[int, ...]]
    thin: dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What was measured on the calibration text, against the float variant, and what was spared for it.

    Attributes:
        labels: tokens of spans that were scored, under teacher forcing.
        loss: the float variant's, a mean in nats.
        loss_increase: the variant's, as a part of that.
        agreement: share of labels for which both have the same likeliest token.
        costs: for each layer that was ranked, the costliest first, what sparing it takes off the mean squared change of
            a label's loss; empty where nothing had to be spared.
        fine_inputs: weights that are quantized and whose inputs come in two int8 parts, as with 15 bits.
        float_weights: weights that stayed in float.
    """

    labels: int
    loss: float
    loss_increase: float
    agreement: float
    costs: dict[str, float]
    fine_inputs: tuple[str, ...]
    float_weights: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How a variant was quantized.

    Attributes:
        scheme: which.
        source: name of the float variant that it comes from.
        formats: for each quantized weight, its bits and what shares a scale, as "int8 in blocks of 128".
        kept: weights of products that stayed in float: those in `sensitivity.float_weights`, and those that the scheme
            does not take.
        rounding: how weights were rounded.
        calibration: what was rounded for; null where only the weights themselves were looked at.
        coverage: how well that reached the experts; null where it was not counted.
        sensitivity: what was spared by measurement; null where nothing was measured.
        activations: how they were quantized ahead of time; null where they were not.
        producer: package name to version, of what quantized it.
    """

    scheme: Scheme
    source: str
    formats: dict[str, str]
    kept: tuple[str, ...]
    rounding: str
    calibration: Calibration | None
    coverage: ExpertCoverage | None = None
    sensitivity: Sensitivity | None = None
    activations: ActivationRanges | None = None
    producer: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One form of the network at one precision.

    Attributes:
        form: `portable` (standard ONNX, static shapes) or `fused` (one branch per expert, for ONNX Runtime).
        precision: of weights; also the dtype of matrix products and caches, except that quantized variants
            keep caches in float32.
        capacity: tokens that an expert accepts from one sequence; null for no limit.
        encoder: ids and mask to cross-attention keys and values.
        decoder: one step over a cache.
        files: what the variant consists of; variants of one precision share their weights.
        parity: measured when it was written; of a quantized variant, that of the float variant it comes from.
        quantization: how it was quantized; null for float variants.
    """

    form: Form
    precision: Precision
    capacity: int | None
    encoder: Graph
    decoder: Graph
    files: tuple[FileRecord, ...]
    parity: Parity
    quantization: Quantization | None = None

    def graph(self, role: Role) -> Graph:
        """The encoder's graph or the decoder step's."""
        return self.encoder if role == "encoder" else self.decoder

    def sources(self, role: Role) -> tuple[FileRecord, ...]:
        """What a graph is loaded from: its own file first, then the weights."""
        own = [record for record in self.files if record.path == self.graph(role).file]
        return (*own, *(record for record in self.files if PurePosixPath(record.path).name == WEIGHTS))


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisRange:
    """Sizes of a dynamic axis: the smallest and the largest that a profile admits, and the one it is tuned for."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A range of shapes that a plan is built for.

    Attributes:
        name: what it is tuned for: `one-row`, or `full` for as many rows as fit.
        axes: range of each dynamic axis of the graph's inputs. Every input's least, best and greatest shape follows
            from its axes; a decoder plan takes one position a step.
    """

    name: Literal["one-row", "full"]
    axes: dict[str, AxisRange]

    def admits(self, sizes: Mapping[str, int]) -> bool:
        """Whether axes of these sizes are within the ranges; axes that the graph does not have are passed over."""
        return all(axis.min <= sizes[name] <= axis.max for name, axis in self.axes.items() if name in sizes)

    def shapes(self, spec: TensorSpec) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The least, the best and the greatest shape of an input."""
        ranges = [
            self.axes[axis] if isinstance(axis, str) else AxisRange(min=axis, opt=axis, max=axis) for axis in spec.axes
        ]
        least, best, greatest = zip(*((axis.min, axis.opt, axis.max) for axis in ranges), strict=True)
        return least, best, greatest


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What a plan was built to allow.

    Attributes:
        weight_streaming: whether weights may stay in host memory, within a budget set before an execution context is
            made.
        refittable: whether another checkpoint's weights may be put into it.
        version_compatible: whether later versions of the flavour, and its lean runtime, may load it.
    """

    weight_streaming: bool
    refittable: bool
    version_compatible: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A TensorRT plan: one graph of one portable variant, compiled for one kind of GPU.

    Attributes:
        flavour: the library that built it and that runs it.
        version: of that library, as it reports it: a plan runs on the same version, unless it is version-compatible.
        compute_capability: of the GPUs that it runs on, such as "8.9".
        variant: name of the variant.
        role: which of its graphs.
        built_from: the graph's file, first, and the variant's weights, as they were; a variant that has been written
            anew has other records.
        profiles: in the plan's order, narrowest first: a request takes the first that admits it.
        options: what it allows.
        file: the plan.
        build_seconds: wall-clock time of the build.
    """

    flavour: Flavour
    version: str
    compute_capability: str
    variant: str
    role: Role
    built_from: tuple[FileRecord, ...]
    profiles: tuple[Profile, ...]
    options: EngineOptions
    file: FileRecord
    build_seconds: float

    @property
    def key(self) -> tuple[Flavour, str, str, Role]:
        """What a bundle has one plan of."""
        return self.flavour, self.compute_capability, self.variant, self.role


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What requests may ask for; engines that are built for ranges of shapes are built for these.

    Attributes:
        tokens: of one input, and of one output.
    """

    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The checkpoint that a bundle was made from.

    Attributes:
        name: as it was given: a hub id, or a folder's name.
        sha256: over the bytes of its weight files.
        disagreements: each way in which its config.json contradicts its tensors.
        unused: tensors that no graph uses.
    """

    name: str
    sha256: str
    disagreements: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole of `manifest.json`.

    Attributes:
        schema: number of this format.
        producer: package name to version, of what wrote the bundle.
        source: the checkpoint.
        architecture: derived from its tensors.
        limits: what requests may ask for.
        extra_ids: how many sentinels `<extra_id_n>` follow the vocabulary's pieces.
        tokenizer: the files of the vocabulary.
        variants: by name.
        engines: plans built from them.
    """

    schema: int
    producer: dict[str, str]
    source: Source
    architecture: Architecture
    limits: Limits
    extra_ids: int
    tokenizer: tuple[FileRecord, ...]
    variants: dict[str, Variant]
    engines: tuple[Engine, ...] = ()

    def files(self) -> Iterator[FileRecord]:
        """Every file of the bundle, once."""
        seen: set[str] = set()
        variant_files = (file for variant in self.variants.values() for file in variant.files)
        for record in [*self.tokenizer, *variant_files, *(engine.file for engine in self.engines)]:
            if record.path not in seen:
                seen.add(record.path)
                yield record

    def is_current(self, engine: Engine) -> bool:
        """Whether a plan was built from the files that its variant has now."""
        variant = self.variants.get(engine.variant)
        return variant is not None and engine.built_from == variant.sources(engine.role)


def engine_folder(flavour: Flavour, compute_capability: str, variant: str) -> str:
    """Where a variant's plans for one kind of GPU are, relative to the bundle: `<role>.plan` each."""
    return f"{ENGINES}/{flavour}-sm{compute_capability.replace('.', '')}/{variant}"


def encoder_specs(architecture: Architecture, dtype: Dtype) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of an encoder graph."""
    source = ("batch", "source")
    inputs = (
        TensorSpec(name="input_ids", dtype="int64", axes=source),
        TensorSpec(name="attention_mask", dtype="int64", axes=source),
    )
    return inputs, tuple(_cross_specs(architecture, dtype))


def decoder_specs(architecture: Architecture, dtype: Dtype) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a decoder-step graph; `rows` is a multiple of `batch`, beams of one input side by side."""
    inputs = (
        TensorSpec(name="input_ids", dtype="int64", axes=("rows", "positions")),
        TensorSpec(name="attention_mask", dtype="int64", axes=("batch", "source")),
        TensorSpec(name="beam_rows", dtype="int64", axes=("rows",)),
        *_cross_specs(architecture, dtype),
        *_cache_specs(architecture, dtype, "past", "past"),
    )
    logits = TensorSpec(name="logits", dtype="float32", axes=("rows", "positions", architecture.vocab_size))
    return inputs, (logits, *_cache_specs(architecture, dtype, "present", "past + positions"))


def _cross_specs(architecture: Architecture, dtype: Dtype) -> Iterator[TensorSpec]:
    heads, d_kv = architecture.num_heads, architecture.d_kv
    for layer in range(architecture.decoder.layers):
        yield TensorSpec(name=f"cross_key.{layer}", dtype=dtype, axes=("batch", heads, d_kv, "source"))
        yield TensorSpec(name=f"cross_value.{layer}", dtype=dtype, axes=("batch", heads, "source", d_kv))


def _cache_specs(architecture: Architecture, dtype: Dtype, prefix: str, length: Axis) -> Iterator[TensorSpec]:
    axes = ("rows", architecture.num_heads, length, architecture.d_kv)
    for layer in range(architecture.decoder.layers):
        yield TensorSpec(name=f"{prefix}_key.{layer}", dtype=dtype, axes=axes)
        yield TensorSpec(name=f"{prefix}_value.{layer}", dtype=dtype, axes=axes)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `manifest.json` into `folder`, replacing one that is there in a single step.

    Raises:
        OutputError: it cannot be written; what was there is as it was.
    """
    text = json.dumps(to_json(manifest), indent=1, ensure_ascii=False)
    fresh = folder / f".{MANIFEST}.partial"
    try:
        fresh.write_text(text + "\n", encoding="utf-8")
        fresh.replace(folder / MANIFEST)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise OutputError(f"cannot write {folder / MANIFEST} ({error.strerror or error}); free some space") from error


def read_manifest(bundle: Path) -> Manifest:
    """Read a bundle's manifest.

    Raises:
        BundleNotFoundError: there is no bundle at `bundle`.
        BundleError: it is not JSON, of a newer schema, or has unknown, missing or mistyped keys (all are named).
    """
    path = bundle / MANIFEST
    if not path.is_file():
        raise BundleNotFoundError(f"{bundle} is not a bundle (no {MANIFEST}); make one with `pointsman-export bundle`")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{path} is not valid JSON ({error}); export the bundle again") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise BundleError(
            f"{path} has schema {schema} and this pointsman reads up to {SCHEMA}; upgrade pointsman or export again"
        )
    manifest, problems = from_json(Manifest, document)
    if manifest is None:
        raise BundleError(
            f"{path} is not a manifest of schema {SCHEMA}: {'; '.join(problems)}; export the bundle again"
        )
    return manifest


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes, read in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_of(folder: Path, path: Path) -> FileRecord:
    """The record of a file inside a bundle's folder."""
    return FileRecord(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=sha256_of(path))


def verify_files(bundle: Path, records: Iterator[FileRecord] | tuple[FileRecord, ...]) -> None:
    """Check sizes and hashes.

    Raises:
        BundleError: naming every file that is missing, of another size, or changed.
    """
    problems = [problem for record in records if (problem := _problem_with(bundle, record))]
    if problems:
        raise BundleError(f"{bundle} is damaged: {'; '.join(problems)}; export the bundle again")


def _problem_with(bundle: Path, record: FileRecord) -> str | None:
    path = bundle / record.path
    if not path.is_file():
        return f"{record.path} is missing"
    if path.stat().st_size != record.bytes:
        return f"{record.path} has {path.stat().st_size} bytes instead of {record.bytes}"
    return None if sha256_of(path) == record.sha256 else f"{record.path} was changed (its sha256 differs)"
