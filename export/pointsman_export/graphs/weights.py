"""Stream a checkpoint's tensors into one external-data file, one tensor at a time.

Every tensor starts on a page, so that engines can map it. The experts of a layer lie side by side: the portable form
reads them as one stacked tensor, the fused form one by one, from the same bytes.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import nn

from pointsman.bundle.writing import TensorFile, what_to_do
from pointsman.errors import CheckpointError, OutputError
from pointsman_export.checkpoint import check_finite, not_finite
from pointsman_export.network import Experts, Linear

DTYPES: dict[str, tuple[np.dtype[Any], ir.DataType]] = {
    "float32": (np.dtype(np.float32), ir.DataType.FLOAT),
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), ir.DataType.BFLOAT16),
    "float16": (np.dtype(np.float16), ir.DataType.FLOAT16),
}
WIDER = {"float16": "float32 or bfloat16", "bfloat16": "float32"}
"""For each dtype, those that hold larger values."""


class TensorReader(Protocol):
    """What is needed of a checkpoint."""

    def read(self, name: str) -> NDArray[np.generic]:
        """The tensor of this name, in memory of its own."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the external-data file.

    Attributes:
        name: initializer name in graphs.
        sources: checkpoint tensors that it is stacked from; one, unless it holds a layer's experts.
        transposed: whether each is stored [out, in] in the checkpoint and [in, out] in graphs.
        shape: in graphs.
        dtype: name of the dtype it is stored in.
    """

    name: str
    sources: tuple[str, ...]
    transposed: bool
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Size in the file."""
        return math.prod(self.shape) * DTYPES[self.dtype][0].itemsize


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A written external-data file.

    Attributes:
        path: where it is.
        sha256: of its bytes.
        tensors: by initializer name; experts both stacked and one by one.
    """

    path: Path
    sha256: str
    tensors: Mapping[str, ir.ExternalTensor]


def plan(network: nn.Module) -> list[Entry]:
    """What must be written for a network built in the portable form.

    Args:
        network: on any device, with or without weights.
    """
    return [entry for prefix, module in network.named_modules() for entry in _entries(prefix, module)]


def _entries(prefix: str, module: nn.Module) -> Iterator[Entry]:
    for name, parameter in module.named_parameters(recurse=False):
        full, dtype = f"{prefix}.{name}", str(parameter.dtype).removeprefix("torch.")
        sources: tuple[str, ...] = (full,)
        transposed = isinstance(module, Linear) and name == "weight"
        if isinstance(module, Experts):
            transposed = True
            sources = tuple(f"{prefix}.expert_{k}.{name}.weight" for k in range(parameter.shape[0]))
        yield Entry(full, sources, transposed, tuple(parameter.shape), dtype)


def write_weights(
    entries: list[Entry], checkpoint: TensorReader, path: Path, *, progress: Callable[[int], object]
) -> WeightFile:
    """Write all tensors.

    Args:
        entries: what to write, in this order.
        checkpoint: where to read it, one source tensor at a time.
        path: the file to make.
        progress: called with the number of bytes after each source tensor.

    Raises:
        CheckpointError: a weight is NaN or infinite, or its stored dtype cannot hold it.
        OutputError: the file cannot be written.
    """
    tensors: dict[str, ir.ExternalTensor] = {}
    try:
        with path.open("wb") as file:
            writer = TensorFile(file)
            for entry in entries:
                tensors.update(_external(entry, _write_entry(writer, entry, checkpoint, progress), path))
    except OSError as error:
        raise OutputError(f"cannot write {path.name} ({error.strerror}); {what_to_do(error)}") from error
    return WeightFile(path, writer.sha256, tensors)


def _write_entry(
    writer: TensorFile, entry: Entry, checkpoint: TensorReader, progress: Callable[[int], object]
) -> list[int]:
    """Write an entry's sources side by side; return their offsets."""
    writer.align()
    offsets = []
    for source in entry.sources:
        array = converted(checkpoint.read(source), entry, source)
        offsets.append(writer.append(array.reshape(-1).view(np.uint8).data))
        progress(array.nbytes)
    return offsets


def converted(array: NDArray[np.generic], entry: Entry, source: str) -> NDArray[np.generic]:
    """One source tensor as it is stored: oriented, cast, contiguous, finite."""
    check_finite(array, source)
    oriented = array.T if entry.transposed else array
    with np.errstate(over="ignore"):  # the check below names the tensor
        stored = np.ascontiguousarray(oriented.astype(DTYPES[entry.dtype][0]))
    if entry.dtype in WIDER and (past := not_finite(stored)):
        raise CheckpointError(
            f"{source} has {past} values of {stored.size} that {entry.dtype} cannot hold; "
            f"export with --dtype {WIDER[entry.dtype]}"
        )
    return stored


def _external(entry: Entry, offsets: list[int], path: Path) -> Iterator[tuple[str, ir.ExternalTensor]]:
    def tensor(name: str, offset: int, shape: tuple[int, ...]) -> tuple[str, ir.ExternalTensor]:
        numpy_dtype, onnx_dtype = DTYPES[entry.dtype]
        length = math.prod(shape) * numpy_dtype.itemsize
        return name, ir.ExternalTensor(
            path.name, offset, length, onnx_dtype, shape=ir.Shape(shape), name=name, base_dir=path.parent
        )

    yield tensor(entry.name, offsets[0], entry.shape)
    if entry.sources != (entry.name,):
        for source, offset in zip(entry.sources, offsets, strict=True):
            yield tensor(source, offset, entry.shape[1:])
