"""Tensors under the names that the model's architecture gives them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pointsman_export.checkpoint.folder import Checkpoint


class TensorReader(Protocol):
    """What is needed of a checkpoint."""

    def read(self, name: str) -> NDArray[np.generic]:
        """The tensor of this name, in memory of its own."""


@dataclass(frozen=True, slots=True)
class CanonicalReader:
    """A checkpoint under the names that its architecture gives its tensors, whichever it uses itself."""

    checkpoint: Checkpoint
    names: Mapping[str, str]

    def read(self, name: str) -> NDArray[np.generic]:
        """The tensor of this canonical name."""
        return self.checkpoint.read(self.names[name])
