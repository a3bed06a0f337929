"""Which model a bundle was made from: a hash of its tensors, taken while they are read."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointsman_export.checkpoint.reader import TensorReader


class Fingerprinted:
    """A checkpoint whose tensors are hashed as they are read.

    The hash is of the model and not of its files: it is the same for every layout that holds the same numbers in the
    same dtypes. Every tensor gives a line, the SHA-256 of its bytes (in C order, little-endian), its canonical name,
    its dtype and its shape; the fingerprint is the SHA-256 of the lines sorted by name.

    Args:
        reader: the checkpoint, under canonical names.
    """

    def __init__(self, reader: TensorReader) -> None:
        self._reader = reader
        self._lines: dict[str, str] = {}

    def read(self, name: str) -> NDArray[Any]:
        """The tensor of this name, in memory of its own; see `TensorReader`."""
        array = self._reader.read(name)
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        shape = "x".join(map(str, array.shape))
        self._lines[name] = f"{hashlib.sha256(data).hexdigest()}  {name} {array.dtype.name} {shape}\n"
        return array

    @property
    def sha256(self) -> str:
        """Hex digest of all tensors that were read so far."""
        return hashlib.sha256("".join(self._lines[name] for name in sorted(self._lines)).encode()).hexdigest()
