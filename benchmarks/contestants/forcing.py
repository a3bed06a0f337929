"""Teacher forcing as a logits processor, so that each engine decodes a target in the way in which it decodes at all."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Document:
    """A source and what the decoder is made to say.

    Attributes:
        inputs: token ids of the encoder.
        target: token ids of the decoder, without its start.
    """

    inputs: tuple[int, ...]
    target: tuple[int, ...]

    @classmethod
    def from_json(cls, fields: dict[str, list[int]]) -> "Document":
        """From a job."""
        return cls(tuple(fields["inputs"]), tuple(fields["target"]))


@dataclass
class ForcedTarget:
    """Lets nothing come next but a target's token, and notes what the model would have said. For one row.

    It is a constraint as `pointsman.SwitchModel.generate` takes one.

    Attributes:
        tokens: the target.
        vocabulary: how many tokens there are.
        losses: of each token, the negative natural log-probability.
        likeliest: at each position the token with the highest score.
        ending_tokens: how many tokens end a sequence, here eos.
    """

    tokens: tuple[int, ...]
    vocabulary: int
    losses: list[float] = field(default_factory=list)
    likeliest: list[int] = field(default_factory=list)
    ending_tokens: int = 1

    def __call__(self, prefixes: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Note the scores `[1, vocabulary]` that follow the prefixes `[1, length]`, and leave one token possible."""
        wanted, row = self.tokens[prefixes.shape[1] - 1], scores[0].astype(np.float64)
        self.losses.append(float(np.logaddexp.reduce(row) - row[wanted]))
        self.likeliest.append(int(row.argmax()))
        forced = np.full_like(scores, -np.inf)
        forced[0, wanted] = 0.0
        return forced

    def named(self, prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
        """All tokens `[1, vocabulary]`: a loss is taken over the whole row."""
        return np.broadcast_to(np.arange(self.vocabulary), (len(prefixes), self.vocabulary))

    def of_inputs(self, inputs: NDArray[np.int64]) -> "ForcedTarget":  # noqa: ARG002 - there is one
        """Itself."""
        return self

    def ended(self, prefixes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the target is complete, `[1]`; the prefixes hold the decoder's start too."""
        return np.array([prefixes.shape[1] > len(self.tokens)])

    def to_json(self) -> dict[str, Any]:
        """What was noted."""
        return {"losses": self.losses, "likeliest": self.likeliest}
