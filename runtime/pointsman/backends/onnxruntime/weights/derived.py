"""Weights that a changed graph has and a bundle has not, made of the bundle's when it is loaded."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pointsman.backends.onnxruntime.models.device_operators import Derived
from pointsman.backends.onnxruntime.models.graphs import BFLOAT16, FLOAT
from pointsman.backends.onnxruntime.models.tensors import Initializer
from pointsman.processors import usable

# NumPy has no bfloat16, and none is needed to copy.
_BITS: Final[dict[int, np.dtype[Any]]] = {FLOAT: np.dtype("<u4"), BFLOAT16: np.dtype("<u2")}


def derived_values(weights: Path, derived: Iterable[Derived]) -> Mapping[str, Any]:
    """The engine's values, in memory of the host.

    Args:
        weights: the bundle's file of them.
        derived: what to make.

    Returns:
        Values by name.
    """
    content = np.memmap(weights, np.uint8, mode="r")
    # A copy between layouts is bound by one core's loads, and NumPy lets others work meanwhile.
    with ThreadPoolExecutor(usable()) as pool:
        return dict(pool.map(lambda each: (each.name.decode(), _value(content, each)), derived))


def _value(content: NDArray[np.uint8], derived: Derived) -> Any:  # noqa: ANN401 - untyped engine
    sources = [_stored(content, source) for source in derived.sources]
    made = (
        np.ascontiguousarray(sources[0].swapaxes(-1, -2))
        if derived.how == "transposed"
        else np.concatenate(sources, -1)
    )
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(made, derived.sources[0].elements)


def _stored(content: NDArray[np.uint8], source: Initializer) -> NDArray[Any]:
    assert source.place is not None
    bits = _BITS[source.elements]
    found: NDArray[Any] = np.frombuffer(content, bits, source.place.length // bits.itemsize, source.place.offset)
    return found.reshape(source.shape)
