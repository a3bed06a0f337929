"""The tolerances of every comparison of numbers, and why each is what it is. They are nowhere else.

`relative` ones are shares of the largest magnitude in what is compared with, as the exporter measures parity;
`absolute` ones are natural-log probabilities.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two results may be apart.

    Attributes:
        bound: The largest difference that passes.
        kind: Whether the difference is divided by the largest magnitude expected.
        reason: Why not less.
    """

    bound: float
    kind: Literal["relative", "absolute"]
    reason: str

    def check(self, got: ArrayLike, expected: ArrayLike, what: str = "") -> None:
        """Compare; NaN and other shapes never pass.

        Raises:
            AssertionError: The largest difference is above the bound.
        """
        got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
        assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
        scale = np.abs(expected).max(initial=1e-30) if self.kind == "relative" else 1.0
        error = np.abs(got - expected).max(initial=0.0) / scale
        assert error <= self.bound, f"{what}: off by {error:.2g}, {self.bound:g} is allowed, since {self.reason}"


SCORE = Tolerance(1e-4, "absolute", "a mean of float32 log-probabilities, each as exact as the logits are")
NEAR_TIE = Tolerance(1e-4, "absolute", "candidates nearer than the scores' own error have no right order")
DEFINITION = Tolerance(
    1e-4, "relative", "transformers keeps variances, softmax and routers in float32 in a float64 model"
)
LOGITS = Tolerance(1e-4, "relative", "float32 through a dozen layers that amplify it, 200 positions, against float64")
ONE_EXPERT_LAYER = Tolerance(2e-6, "relative", "two float32 products of a few dozen terms, against float64")
FORMS = Tolerance(2e-5, "relative", "the same float32 products in batches of other shapes")
FLOAT16_LOGITS = Tolerance(5e-2, "relative", "float16 keeps 11 bits; layers of sharp attention amplify the loss")
Q_DQ = Tolerance(1e-5, "relative", "float32 scales round once or twice around exact integer products")
W8A8_LOGITS = Tolerance(0.2, "relative", "a tiny model of sharp random layers, rounded to 8 bits everywhere")
SAME_CODES = Tolerance(
    0.1, "absolute", "shares of labels and tokens; where blocks are padded, inputs come in one int8 part, not two"
)
HESSIAN = Tolerance(1e-4, "relative", "sums of squares of activations that two engines compute in float32")
TOKEN_LOSS = Tolerance(1e-5, "absolute", "a float32 logarithm of a sum over a vocabulary, against float64")
MERGED = Tolerance(1e-6, "relative", "float32 products of a few ranks, summed in another order")

LEAST_FLOAT16_AGREEMENT = 0.85
"""Of greedy tokens of a tiny random model: rounding sends a token in some hundred to another expert."""
