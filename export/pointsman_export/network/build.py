"""How a variant is built: its precision, and what all of its modules share."""

from dataclasses import dataclass, replace
from typing import Literal

from pointsman.bundle import Architecture, Dtype, Form, names


@dataclass(frozen=True, slots=True)
class Precision:
    """How a variant computes.

    Attributes:
        name: dtype of matrix products, of the caches and of the stored weights.
        wo_scale: a power of two that the input of `wo` is multiplied by, and its float32 output divided by: the
            feed-forward output of T5 exceeds float16's range.
        stream: dtype of the residual stream, of norms and of attention scores. bfloat16 has float32's range, and
            spares the casts: it costs the demo model 0.008 % of its loss on C4. Routers stay in float32.
    """

    name: Dtype
    wo_scale: float
    stream: Dtype

    @classmethod
    def of(cls, dtype: Dtype) -> "Precision":
        """The precision of a variant named by its dtype."""
        stream: Dtype = "bfloat16" if dtype == "bfloat16" else "float32"
        return cls(dtype, wo_scale=2.0**-6 if dtype == "float16" else 1.0, stream=stream)


@dataclass(frozen=True, slots=True)
class Build:
    """What all modules of one graph share.

    Attributes:
        architecture: sizes.
        form: which expert dispatch.
        precision: dtypes.
        capacity: tokens an expert accepts from one sequence; None for no limit.
        positions: of each row that a decoder step takes; None for any number.
    """

    architecture: Architecture
    form: Form
    precision: Precision
    capacity: int | None
    positions: Literal[1] | None = None

    @property
    def of_one_position(self) -> "Build":
        """The same for a decoder step of one position, which fills no expert: each accepts one token at least."""
        return replace(self, capacity=None, positions=1)


def input_names(architecture: Architecture) -> tuple[str, ...]:
    """Names of a feed-forward network's input projections."""
    return ("wi_0", "wi_1") if architecture.gated else ("wi",)


def projection_names(architecture: Architecture) -> tuple[str, ...]:
    """Names of its input projections, and of its output projection behind them."""
    return (*input_names(architecture), names.OUTPUT_PROJECTION)
