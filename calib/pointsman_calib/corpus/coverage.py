"""Which experts a corpus reaches, and whether it reaches enough of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pointsman.errors import CorpusError, OptionsError

Counts = Mapping[str, tuple[int, ...]]
"""For each sparse layer, the tokens that each of its experts was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageRule:
    """How well a text must reach the experts.

    Attributes:
        fewest_tokens: an expert that is given fewer is thin.
        most_thin: share of all experts that may be, 0 … 1.
    """

    fewest_tokens: int = 64
    most_thin: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            OptionsError: one is out of range.
        """
        if self.fewest_tokens < 0:
            raise OptionsError(f"the fewest tokens of an expert are {self.fewest_tokens}; give 0 or more")
        if not 0 <= self.most_thin <= 1:
            raise OptionsError(f"the share of thin experts is {self.most_thin:g}; give 0 to 1")


def thin_experts(counts: Counts, fewest_tokens: int) -> dict[str, tuple[int, ...]]:
    """By sparse layer, the experts that were given fewer tokens."""
    return {
        layer: tuple(expert for expert, given in enumerate(tokens) if given < fewest_tokens)
        for layer, tokens in counts.items()
    }


def require_coverage(counts: Counts, *, fewest_tokens: int, most_thin: float, documents: int) -> None:
    """Check that a corpus reached enough experts.

    Args:
        counts: what was seen.
        fewest_tokens: an expert that was given fewer is thin.
        most_thin: share of all experts that may be, 0 … 1.
        documents: that were run.

    Raises:
        CorpusError: more are thin; says how many tokens they lack.
    """
    given = np.array([tokens for layer in counts.values() for tokens in layer], np.int64)
    thin = given < fewest_tokens
    surplus = int(thin.sum()) - math.floor(most_thin * given.size)
    if surplus > 0:
        lacking = int(np.sort(fewest_tokens - given[thin])[:surplus].sum())
        raise CorpusError(
            f"{thin.sum()} of {given.size} experts were given fewer than {fewest_tokens} tokens, and at most "
            f"{most_thin:.0%} may be: {surplus} of them need {lacking} tokens more; calibrate on more than these "
            f"{documents} documents, or accept fewer tokens with --min-expert-tokens, or more such experts with "
            "--max-thin-experts"
        )
