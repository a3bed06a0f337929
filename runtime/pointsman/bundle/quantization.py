"""How a quantized variant came to be, and what was measured on the way."""

from dataclasses import dataclass
from typing import Literal

Scheme = Literal["int8", "int4", "int8-qdq"]


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
    """How a variant's activations were brought to INT8.

    Attributes:
        method: which range was clipped to: `minmax`, `percentile`, `entropy` or `mse`.
    """

    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertCoverage:
    """Tokens of the calibration text that experts were given, by sparse layer.

    Attributes:
        fewest_tokens: an expert that was given fewer is thin. It was quantized without regard to the text: its weights
            rounded to nearest, its activations in the range of its layer.
        tokens: for each expert.
        thin: the numbers of the thin experts.
    """

    fewest_tokens: int
    tokens: dict[str, tuple[int, ...]]
    thin: dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """How near a variant is to the float one, under teacher forcing.

    Attributes:
        loss_increase: of the span loss, as a part of the float variant's.
        agreement: share of labels for which both have the same likeliest token.
        expert_agreement: share of tokens, over all sparse layers, that both send to the same expert.
    """

    loss_increase: float
    agreement: float
    expert_agreement: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What was measured on the calibration text, against the float variant, and what was kept in float for it.

    Attributes:
        labels: tokens of spans that were scored, under teacher forcing.
        loss: the float variant's, a mean in nats.
        reached: what the variant holds.
        nearest: what it would hold with every weight rounded to nearest and nothing kept in float.
        costs: for each layer that was ranked, the costliest first, what keeping it in float takes off the mean
            magnitude of a label's change of loss; empty where nothing had to be kept.
        rerouted: likewise, what it takes off the share of tokens that go to another expert.
        fine_inputs: weights that are quantized, and whose inputs are not: of `int8-qdq` they stay in float32, else they
            come in two 8-bit parts, as with 15 bits.
        float_weights: weights that stayed in float.
    """

    labels: int
    loss: float
    reached: Fidelity
    nearest: Fidelity
    costs: dict[str, float]
    rerouted: dict[str, float]
    fine_inputs: tuple[str, ...]
    float_weights: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How a variant was quantized.

    Attributes:
        scheme: which.
        source: name of the float variant that it comes from.
        formats: for each quantized weight, its bits and what shares a scale: "int8 by column", "int4 in blocks of 32".
        kept: weights of products that stayed in float: those in `sensitivity.float_weights`, and those that the scheme
            does not take.
        rounding: how weights were rounded.
        calibration: what was rounded for; null where only the weights themselves were looked at.
        coverage: how well that reached the experts; null where it was not counted.
        sensitivity: what was kept in float by measurement; null where nothing was measured.
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
