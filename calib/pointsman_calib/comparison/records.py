"""The result of a comparison: frozen dataclasses, and their JSON.

A figure that could not be measured, because a variant gave values that are not finite, is null.
"""

import json
from dataclasses import dataclass
from typing import Final, Literal

from pointsman.bundle import Form, Precision, Sensitivity
from pointsman.bundle.records import to_json
from pointsman_calib.settle.limits import Limits

SCHEMA: Final = 1

Search = Literal["greedy", "4 beams"]
Instead = Literal["rounded to nearest", "given their layer's range"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and its 95 % confidence interval, whose ends are null where documents are too few for one."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorErrors:
    """How far one tensor c is from the baseline's b, over all tokens of all documents, padding left out.

    Attributes:
        name: of the tensor.
        values: how many were compared.
        sqnr_db: signal to quantization noise ratio, 10 log10(sum b^2 / sum (b - c)^2); null where nothing differs.
        cosine: similarity of the two tensors as vectors.
        max_absolute: largest |b - c|.
        mean_absolute: mean |b - c|.
        max_relative: largest |b - c| over the largest |b|.
        mean_relative: mean |b - c| over the mean |b|.
    """

    name: str
    values: int
    sqnr_db: float | None
    cosine: float
    max_absolute: float
    mean_absolute: float
    max_relative: float
    mean_relative: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NonFinite:
    """A tensor in which NaN or infinity turned up, and how many of its values in the first such batch."""

    name: str
    values: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCoverage:
    """How many tokens each expert of a sparse layer was chosen for.

    Attributes:
        layer: the block that it is in, such as `encoder.block.1`.
        tokens: of each expert.
    """

    layer: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertAgreement:
    """Share of tokens that a sparse layer's router sends to the same expert as the baseline's."""

    layer: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationAgreement:
    """Generations beside the baseline's, each variant fed what it said itself.

    Attributes:
        search: how tokens were searched for.
        documents: how many were generated.
        identical: how many came out token for token the same.
        prefix: share of tokens before the first that differs, of the longer generation, over all documents.
    """

    search: Search
    documents: int
    identical: int
    prefix: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentsUsed:
    """A set of documents: how many, and the sha256 of their sorted digests (see `documents.DocumentSet`)."""

    documents: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedExperts:
    """How well experts were seen in calibration.

    Attributes:
        coverage: of each sparse layer.
        fewest_tokens: an expert that was given fewer is thin.
        thin: how many are.
        instead: what was done with those.
    """

    coverage: tuple[LayerCoverage, ...]
    fewest_tokens: int
    thin: int
    instead: Instead


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How long a variant takes with one text at a time; variants took turns.

    Attributes:
        ms_to_first_token: median milliseconds from the request to its first token, encoding included.
        ms_per_token: median milliseconds of each further token.
        ms_per_token_of_rounds: the median of each turn, in which all variants were timed one after the other.
        tokens: how many further tokens were timed, of all turns.
    """

    ms_to_first_token: float
    ms_per_token: float
    ms_per_token_of_rounds: tuple[float, ...]
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What a process that holds nothing but one variant takes.

    Attributes:
        loaded_bytes: resident in RAM once the variant is loaded, libraries and mapped files included.
        peak_bytes: the most that ever was, loading and generating with 4 beams included.
    """

    loaded_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledPassage:
    """The beginning of a document with its first blanks, and what each variant put in them with 4 beams.

    Attributes:
        segments: the text before, between and after the blanks: one more than there are blanks.
        original: what stood in each blank; a space at its beginning is part of it.
        fills: what each variant wrote in each blank, by its name; the whole document was before it.
    """

    segments: tuple[str, ...]
    original: tuple[str, ...]
    fills: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantResult:
    """What was measured of a variant by itself.

    Attributes:
        name: of the variant.
        form: from the manifest.
        precision: from the manifest.
        capacity: from the manifest.
        bytes: of its files; those that variants share count for each.
        rounding: how its weights were rounded; null for float variants.
        calibration: the documents that it was calibrated on; null where it was not.
        calibrated_experts: how well they were seen then; null where it was not counted.
        quantized: how many of its weights are.
        kept: weights of products that stayed in float; none for float variants, which have no others.
        sensitivity: what was measured on the calibration text, beside rounding to nearest, how layers were ranked by
            it, and what was kept more precise; null where nothing was measured.
        non_finite: tensors with NaN or infinity; nothing else is measured then.
        loss: nats per span token.
        coverage: of each sparse layer.
        speed: null where it was not measured.
        footprint: null where nothing was generated, where the system does not tell it as Linux does, and where the
            process was killed.
    """

    name: str
    form: Form
    precision: Precision
    capacity: int | None
    bytes: int
    rounding: str | None
    calibration: DocumentsUsed | None
    calibrated_experts: CalibratedExperts | None
    quantized: int
    kept: tuple[str, ...]
    sensitivity: Sensitivity | None
    non_finite: tuple[NonFinite, ...]
    loss: Interval | None
    coverage: tuple[LayerCoverage, ...]
    speed: Speed | None
    footprint: Footprint | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateResult:
    """What was measured of a variant against the baseline.

    Attributes:
        variant: the measurements of the variant itself.
        loss_increase: percent of the baseline's loss, paired by document.
        token_agreement: share of label positions at which the likeliest token is the baseline's.
        expert_agreement: share of tokens, of all sparse layers, that go to the baseline's expert.
        outputs: the encoder's outputs and the logits.
        steps: SQNR in dB of the logits of each decoder step; null where nothing differs.
        layers: the residual stream after each block, where layers were asked for.
        experts: of each sparse layer.
        generations: of each kind of search, where documents were generated.
        failures: the limits that do not hold, one sentence each.
    """

    variant: VariantResult
    loss_increase: Interval | None
    token_agreement: float | None
    expert_agreement: float | None
    outputs: tuple[TensorErrors, ...]
    steps: tuple[float | None, ...]
    layers: tuple[TensorErrors, ...]
    experts: tuple[ExpertAgreement, ...]
    generations: tuple[GenerationAgreement, ...]
    failures: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was compared on.

    Attributes:
        sources: files, patterns or datasets, as they were given.
        documents: how many distinct ones.
        sha256: of the sorted digests of their texts, see `documents.DocumentSet`.
        seed: of the spans and of the bootstrap.
        window: most encoder inputs of a document.
        source_tokens: encoder inputs.
        label_tokens: targets, sentinels and eos included.
        span_tokens: targets that the loss is taken over.
        ids: of the model's vocabulary, spare rows of its embedding included; a guess among them has a loss of ln(ids).
    """

    sources: tuple[str, ...]
    documents: int
    sha256: str
    seed: int
    window: int
    source_tokens: int
    label_tokens: int
    span_tokens: int
    ids: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Variants of a bundle, compared on the same documents.

    Attributes:
        schema: number of this format.
        bundle: the bundle's folder.
        source: the checkpoint that it was made from.
        source_sha256: of the checkpoint's weights.
        versions: package name to version.
        date: of the comparison, ISO 8601, UTC.
        engine: that ran the variants, and on which device.
        machine: where it ran: its processor, threads and system.
        evaluation: the documents compared on.
        limits: what was asked for.
        baseline: what the others are compared with.
        candidates: the others.
        passages: a few documents, filled by each variant; none where nothing was generated.
    """

    schema: int
    bundle: str
    source: str
    source_sha256: str
    versions: dict[str, str]
    date: str
    engine: str
    machine: str
    evaluation: Evaluation
    limits: Limits
    baseline: VariantResult
    candidates: tuple[CandidateResult, ...]
    passages: tuple[FilledPassage, ...]

    @property
    def variants(self) -> tuple[VariantResult, ...]:
        """All of them, the baseline first."""
        return (self.baseline, *(candidate.variant for candidate in self.candidates))

    @property
    def passed(self) -> bool:
        """Whether every candidate holds every limit, and all its values are finite."""
        return not any(candidate.failures for candidate in self.candidates)

    def to_json(self) -> str:
        """The comparison as a JSON document."""
        return json.dumps(to_json(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
