"""Which experts a corpus reaches, and what is done about those that it hardly does."""

import math
from collections.abc import Mapping

import numpy as np

from pointsman.errors import CorpusError
from pointsman.manifest import ExpertCoverage

Counts = Mapping[str, tuple[int, ...]]
"""For each sparse layer, the tokens that each of its experts was given."""


def checked_coverage(counts: Counts, *, fewest_tokens: int, most_thin: float, documents: int) -> ExpertCoverage:
    """Tell the experts that were given too few tokens to be calibrated for.

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
            f"{thin.sum()} of {given.size} experts were given fewer than {fewest_tokens} tokens, and {most_thin:.0%} "
            f"may be: {surplus} of them need {lacking} tokens more; calibrate on more than these {documents} "
            "documents, or accept fewer tokens with --min-expert-tokens"
        )
    return ExpertCoverage(
        fewest_tokens=fewest_tokens,
        tokens=dict(counts),
        thin={
            layer: found
            for layer, tokens in counts.items()
            if (found := tuple(k for k, seen in enumerate(tokens) if seen < fewest_tokens))
        },
    )
