"""Weights that a session is given as unsigned bytes while it is loaded.

Told to be exact where products saturate (`saturation.py`), ONNX Runtime makes signed weights unsigned by itself: byte
by byte on one core, and what it has made of a branch's it keeps for good. Given as unsigned bytes, weights are laid out
for products like any others. What was given is not read again then, and is freed.
"""

import math
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from io import FileIO
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pointsman.backends.onnxruntime.models.tensors import Initializer
from pointsman.backends.onnxruntime.models.unsigned_weights import with_unsigned_weights
from pointsman.backends.onnxruntime.weights.saturation import products_saturate
from pointsman.bundle import names
from pointsman.errors import BundleError
from pointsman.wording import as_text

_GRAPH = Path(__file__).with_suffix(names.GRAPH_SUFFIX)
"""y = x · outermost + (x · branch, if `first`; x · nested, if `second`; else x · last): `MatMulIntegerToFloat` without
scales or zero points, of x uint8 [1, 16] and four uint8 [16, 16] that are all 1, each in the graph of its product."""
_WEIGHTS, _SIZE = ("outermost", "branch", "nested", "last"), 16
_CONTENT, _GIVEN, _AFTERWARDS = 1, 2, 3
_HIGHEST_BIT, _ALIGNMENT = np.uint8(0x80), 64


@contextmanager
def given_unsigned(model: bytes, weights: Path, options: Any) -> Iterator[bytes]:  # noqa: ANN401 - untyped engine
    """Give weights to a session that is loaded while this is entered, where its processor's products saturate.

    Args:
        model: a serialized model.
        weights: the file of its external data.
        options: of the session.

    Yields:
        What is to be loaded.

    Raises:
        BundleError: the file is shorter than it should be.
    """
    if not (products_saturate() and given_weights_are_laid_out()):
        yield model
        return
    model, signed = with_unsigned_weights(model)
    values = _unsigned(weights, signed) if signed else {}  # the options know where they are, and do not keep them
    for name, value in values.items():
        options.add_initializer(name, value)
    yield model


@cache
def given_weights_are_laid_out() -> bool:
    """Whether ONNX Runtime takes weights that it is given, and has what it needs of them when a session is loaded."""
    given = {name: np.full((_SIZE, _SIZE), _GIVEN, np.uint8) for name in _WEIGHTS}
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    values = _values(given)
    for name, value in values.items():
        options.add_initializer(name, value)
    session = onnxruntime.InferenceSession(_GRAPH, options, providers=["CPUExecutionProvider"])
    for weight in given.values():
        weight[:] = _AFTERWARDS
    feeds = {"x": np.ones((1, _SIZE), np.uint8)}
    expected = 2 * _SIZE * _GIVEN
    branches = ((True, False), (False, True), (False, False))
    runs = (session.run(None, {**feeds, "first": np.array(one), "second": np.array(two)}) for one, two in branches)
    return all((y == expected).all() for (y,) in runs)


def _unsigned(weights: Path, signed: Sequence[Initializer]) -> dict[str, Any]:
    """Weights as they lie in a file, with the highest bit of each byte the other way round."""
    ends = [*accumulate(_aligned(math.prod(weight.shape)) for weight in signed)]
    memory, made = _fresh_memory(ends[-1]), {}
    with weights.open("rb", buffering=0) as file:
        for weight, end in zip(signed, ends, strict=True):
            size = math.prod(weight.shape)
            array = memory[end - _aligned(size) :][:size]
            assert weight.place is not None
            file.seek(weight.place.offset)
            if not _filled(array.data, file):
                raise BundleError(f"{as_text(weights)} is cut off; copy the bundle again")
            made[weight.name.decode()] = np.bitwise_xor(array, _HIGHEST_BIT, out=array).reshape(weight.shape)
    return _values(made)


def _filled(array: memoryview, file: FileIO) -> bool:
    """Whether a file has had enough for an array; one call reads no more than 2 GiB."""
    while array and (read := file.readinto(array)):
        array = array[read:]
    return not array


def _fresh_memory(size: int) -> NDArray[np.uint8]:
    """Bytes that go back to the system with the last array that lies in them."""
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _values(arrays: dict[str, NDArray[np.uint8]]) -> dict[str, Any]:
    """The engine's, in the arrays' own memory."""
    return {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
