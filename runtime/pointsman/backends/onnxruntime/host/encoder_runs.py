"""Inputs of many requests as runs of the encoder: those of similar length share one, and little padding is encoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pointsman.backends.base import Source

_RUN: Final = 48
"""What a run costs beside its tokens, in tokens: measured with int8 weights and the dense sizes of switch-base-8. From
some 150 tokens on, nothing is gained by encoding inputs together."""
_MOST: Final = 2048
"""Tokens of a run of several inputs, so that what it takes beside its results does not grow with how many there are."""


@dataclass(frozen=True, slots=True)
class Run:
    """Inputs that are encoded together.

    Attributes:
        inputs: int64 [inputs], their numbers among all.
        ids: int64 [inputs, longest].
        mask: int64 [inputs, longest], 1 for a token and 0 for padding.
    """

    inputs: NDArray[np.int64]
    ids: NDArray[np.int64]
    mask: NDArray[np.int64]


def encoder_runs(sources: Sequence[Source], pad_id: int) -> list[Run]:
    """All inputs of some requests, each in one run; the shortest first.

    Args:
        sources: the requests.
        pad_id: what inputs may be padded with.
    """
    given = [each for source in sources for each in zip(source.input_ids, source.attention_mask, strict=True)]
    lengths = np.array([length(mask) for _, mask in given])
    order = np.argsort(lengths, kind="stable")
    runs, first = [], 0
    for end in _ends(lengths[order]):
        inputs, longest = order[first:end], int(lengths[order[end - 1]])
        ids, mask = np.full((end - first, longest), pad_id), np.zeros((end - first, longest), np.int64)
        for row, number in enumerate(inputs):
            tokens = int(lengths[number])
            ids[row, :tokens], mask[row, :tokens] = (values[:tokens] for values in given[number])
        runs.append(Run(inputs, ids, mask))
        first = end
    return runs


def length(mask: NDArray[np.int64]) -> int:
    """Tokens of an input up to its last, and at least one."""
    return 1 + int(np.flatnonzero(mask).max(initial=0))


def _ends(lengths: NDArray[np.int64]) -> list[int]:
    """Where runs of rising lengths end, so that they cost as little as can be."""
    inputs = len(lengths)
    cost, begins = np.zeros(inputs + 1, np.int64), np.zeros(inputs + 1, np.int64)
    for end in range(1, inputs + 1):
        tokens = (end - np.arange(end)) * lengths[end - 1]
        costs = cost[:end] + _RUN + tokens
        least = int(np.argmax((tokens <= _MOST) | (tokens == lengths[end - 1])))  # where a run may begin
        begins[end] = least + costs[least:].argmin()
        cost[end] = costs[begins[end]]
    ends, end = [], inputs
    while end:
        ends.append(end)
        end = int(begins[end])
    return ends[::-1]
