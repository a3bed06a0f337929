"""Stream a checkpoint's tensors into one external-data file, one tensor at a time.

Every tensor starts on a page, so that engines can map it. The experts of a layer lie side by side: the portable form
reads them as one stacked tensor, the fused form one by one, from the same bytes.
"""

import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from pointsman.bundle import ROLES, Architecture, Dtype, names
from pointsman.bundle.writing import ALIGNMENT, TensorFile, what_to_do
from pointsman.errors import OutputError
from pointsman_export.architecture import expected_tensors
from pointsman_export.checkpoint import NUMPY_DTYPES, TensorReader
from pointsman_export.graphs.conversion import in_order
from pointsman_export.network.build import Precision

_MATRIX = 2
_BIASES = {f"{names.relative_bias(role)}.weight" for role in ROLES}
_LOOKED_UP = {*names.EMBEDDINGS, *_BIASES}


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
        return math.prod(self.shape) * NUMPY_DTYPES[self.dtype].itemsize


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


def plan(architecture: Architecture, dtype: Dtype) -> list[Entry]:
    """What must be written for a model.

    Args:
        architecture: sizes.
        dtype: of matrix products, and so of their weights.
    """
    sources: dict[str, list[str]] = defaultdict(list)
    expected = expected_tensors(architecture)
    for name in expected:
        sources[_stack_of(name) or name].append(name)
    return [_entry(name, parts, expected[parts[0]], dtype) for name, parts in sources.items()]


def _stack_of(name: str) -> str | None:
    """The stack that an expert's weight is a part of."""
    expert = names.expert_of(name)
    if expert is None:
        return None
    layer, _, projection = expert
    return names.stacked_experts(layer, projection)


def _entry(name: str, sources: list[str], shape: tuple[int, ...], dtype: Dtype) -> Entry:
    """How a tensor of this shape, or a stack of them, is stored."""
    multiplied = len(shape) == _MATRIX and name not in _LOOKED_UP
    oriented = shape[::-1] if multiplied else shape
    return Entry(
        name=name,
        sources=tuple(sources),
        transposed=multiplied,
        shape=oriented if sources == [name] else (len(sources), *oriented),
        dtype=stored_dtype(name, dtype, multiplied=multiplied),
    )


def stored_dtype(name: str, dtype: Dtype, *, multiplied: bool) -> Dtype:
    """What a tensor is stored in: routers and biases exactly, norms in the dtype of the stream that they scale.

    Args:
        name: the tensor's, or of a stack of experts.
        dtype: of matrix products.
        multiplied: whether it is the weight of one.
    """
    if names.is_router(name) or name in _BIASES:
        return "float32"
    return dtype if multiplied or name in names.EMBEDDINGS else Precision.of(dtype).stream


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
    try:
        with path.open("wb") as file, contextlib.closing(in_order(entries, checkpoint)) as parts:
            writer = TensorFile(file)
            for entry, source, array in parts:
                if source == entry.sources[0]:
                    writer.align()
                writer.append(array.reshape(-1).view(np.uint8).data)
                progress(array.nbytes)
    except OSError as error:
        raise OutputError(f"cannot write {path.name} ({error.strerror}); {what_to_do(error)}") from error
    return WeightFile(path, writer.sha256, places(entries, path))


def places(entries: list[Entry], path: Path) -> dict[str, ir.ExternalTensor]:
    """Where each tensor lies in a file that holds these entries: of experts, all of a layer and each by itself.

    Args:
        entries: in their order.
        path: of the file.
    """
    tensors: dict[str, ir.ExternalTensor] = {}
    end = 0
    for entry in entries:
        start = end + -end % ALIGNMENT
        tensors |= _external(entry, start, path)
        end = start + entry.bytes
    return tensors


def _external(entry: Entry, start: int, path: Path) -> dict[str, ir.ExternalTensor]:
    dtype = NUMPY_DTYPES[entry.dtype]
    element = ir.DataType.from_numpy(dtype)

    def tensor(name: str, offset: int, shape: tuple[int, ...]) -> ir.ExternalTensor:
        length = math.prod(shape) * dtype.itemsize
        return ir.ExternalTensor(
            path.name, offset, length, element, shape=ir.Shape(shape), name=name, base_dir=path.parent
        )

    tensors = {entry.name: tensor(entry.name, start, entry.shape)}
    if entry.sources != (entry.name,):
        size = entry.bytes // len(entry.sources)
        tensors |= {
            source: tensor(source, start + number * size, entry.shape[1:])
            for number, source in enumerate(entry.sources)
        }
    return tensors
