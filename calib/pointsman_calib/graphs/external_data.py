"""Tensors in a float variant's external-data file: read one at a time, and appended to a new file."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pointsman.bundle.writing import TensorFile
from pointsman.errors import BundleError

_NUMPY: Final[dict[ir.DataType, type[np.generic]]] = {
    ir.DataType.FLOAT: np.float32,
    ir.DataType.BFLOAT16: np.uint16,
    ir.DataType.INT8: np.int8,
    ir.DataType.UINT8: np.uint8,
}


def in_file_order(models: Iterable[ir.Model]) -> list[tuple[str, ir.ExternalTensor]]:
    """Every tensor that the models keep in external data, by name, in the order of its bytes."""
    tensors = {
        name: value.const_value
        for model in models
        for graph in (model.graph, *model.graph.subgraphs())
        for name, value in graph.initializers.items()
        if isinstance(value.const_value, ir.ExternalTensor)
    }
    return sorted(tensors.items(), key=lambda item: item[1].offset or 0)


def read_tensor(tensor: ir.ExternalTensor) -> NDArray[Any]:
    """A tensor's values in memory of their own: mapped pages would count as resident until the file is closed.

    Those in bfloat16 come as float32.

    Raises:
        BundleError: it is of a dtype that no variant has which can be quantized.
    """
    return _read(tensor, tuple(tensor.shape.numpy()), 0)


def read_row(tensor: ir.ExternalTensor, row: int) -> NDArray[Any]:
    """One index of a tensor's first axis, such as one expert of a stack; otherwise as `read_tensor`."""
    return _read(tensor, tuple(tensor.shape.numpy())[1:], row)


def _read(tensor: ir.ExternalTensor, shape: tuple[int, ...], row: int) -> NDArray[Any]:
    if tensor.dtype not in _NUMPY:
        raise BundleError(f"{tensor.name} is {tensor.dtype.name}; quantize a float32 or bfloat16 variant")
    dtype = np.dtype(_NUMPY[tensor.dtype])
    count = math.prod(shape)
    offset = (tensor.offset or 0) + row * count * dtype.itemsize
    values = np.fromfile(tensor.path, dtype, count, offset=offset).reshape(shape)
    return _widened(values) if tensor.dtype == ir.DataType.BFLOAT16 else values


def _widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Values in bfloat16 as float32, of which they are the upper half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def append_tensor(file: TensorFile, path: Path, name: str, array: NDArray[Any]) -> ir.ExternalTensor:
    """Append a tensor on a page of its own.

    Args:
        file: what to append to.
        path: of that file.
        name: of the tensor.
        array: its values.
    """
    return append_rows(file, path, name, [array], array.shape)


def append_rows(
    file: TensorFile, path: Path, name: str, rows: Iterable[NDArray[Any]], shape: tuple[int, ...]
) -> ir.ExternalTensor:
    """Append a tensor of this shape whose rows come one by one; there is at least one, and all are of one dtype."""
    file.align()
    start = file.size
    for row in rows:
        file.append(np.ascontiguousarray(row).reshape(-1).view(np.uint8).data)
        dtype = ir.DataType.from_numpy(row.dtype)
    return ir.ExternalTensor(
        path.name, start, file.size - start, dtype, shape=ir.Shape(shape), name=name, base_dir=path.parent
    )
