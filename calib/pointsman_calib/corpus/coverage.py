"""Which experts a corpus reaches, and whether it reaches enough of them: one rule and one record for all schemes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pointsman.bundle import ExpertCoverage, Scheme
from pointsman.errors import CorpusError, OptionsError


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageRule:
    """How well text must reach the experts.

    Attributes:
        fewest_tokens: an expert that is given fewer is thin: it is quantized without regard to the text, its weights
            rounded to nearest, its activations in the range of its layer.
        most_thin: share of all experts that may be thin, 0 … 1.
    """

    fewest_tokens: int = 64
    most_thin: float = 1.0

    def __post_init__(self) -> None:
        if self.fewest_tokens < 0:
            raise OptionsError(f"the fewest tokens of an expert are {self.fewest_tokens}; give 0 or more")
        if not 0 <= self.most_thin <= 1:
            raise OptionsError(f"the share of thin experts is {self.most_thin:g}; give 0 to 1")

    def coverage(self, tokens: Mapping[str, tuple[int, ...]], *, documents: int) -> ExpertCoverage:
        """What a manifest says of text.

        Args:
            tokens: for each sparse layer, those that the text gave each of its experts.
            documents: of the text.

        Raises:
            CorpusError: too many experts are thin; says how many tokens they lack.
        """
        self._require(np.array([given for layer in tokens.values() for given in layer], np.int64), documents)
        thin = {
            layer: tuple(expert for expert, given in enumerate(experts) if given < self.fewest_tokens)
            for layer, experts in tokens.items()
        }
        return ExpertCoverage(fewest_tokens=self.fewest_tokens, tokens=dict(tokens), thin=thin)

    def _require(self, given: NDArray[np.int64], documents: int) -> None:
        thin = given < self.fewest_tokens
        surplus = int(thin.sum()) - math.floor(self.most_thin * given.size)
        if surplus > 0:
            lacking = int(np.sort(self.fewest_tokens - given[thin])[:surplus].sum())
            raise CorpusError(
                f"{thin.sum()} of {given.size} experts were given fewer than {self.fewest_tokens} tokens, and at most "
                f"{self.most_thin:.0%} may be: {surplus} of them need {lacking} tokens more; calibrate on more than "
                f"these {documents} documents, or accept fewer tokens with `fewest_tokens`, or more such experts "
                "with `most_thin`"
            )


# One scale serves all activations of a layer's experts: where most have no range of their own, it is hardly theirs.
DEFAULT_COVERAGE: Final[dict[Scheme, CoverageRule]] = {
    "int8": CoverageRule(),
    "int4": CoverageRule(),
    "int8-qdq": CoverageRule(most_thin=0.5),
}
