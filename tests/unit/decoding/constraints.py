"""Constraints that tests can tell apart from any processor."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class _Plain:
    """Ends with eos alone, and says that it may change any token."""

    ending_tokens = 1

    def named(self, prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.zeros((len(prefixes), 1), np.int64)

    def of_inputs(self, inputs: NDArray[np.int64]) -> Self:
        return self

    def ended(self, prefixes: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.zeros(len(prefixes), np.bool_)


@dataclass(frozen=True)
class Nothing(_Plain):
    """Leaves nothing possible to one of the inputs."""

    inputs: int
    forbidden: int

    def __call__(self, prefixes: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        each = len(scores) // self.inputs
        scores[each * self.forbidden : each * (self.forbidden + 1)] = -np.inf
        return scores


@dataclass(frozen=True)
class Wanting(_Plain):
    """Makes one token the likeliest, whatever was done to it before."""

    token: int

    def named(self, prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.full((len(prefixes), 1), self.token)

    def __call__(self, prefixes: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        scores[:, self.token] = 100
        return scores
