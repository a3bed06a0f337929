"""Graphs and their interface: dtypes and axes of what goes in and out, under the names of `names`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pointsman.bundle import names
from pointsman.bundle.architecture import Architecture

Axis = str | int
Dtype = Literal["float32", "bfloat16", "float16"]
Role = Literal["encoder", "decoder"]
ROLES: Final[tuple[Role, ...]] = ("encoder", "decoder")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """An input or output of a graph: its name, dtype, and axes (a number, or the name of a dynamic axis)."""

    name: str
    dtype: Literal["float32", "bfloat16", "float16", "int64"]
    axes: tuple[Axis, ...]

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape where the dynamic axes have these sizes."""
        return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in self.axes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """An ONNX file and its interface; `file` is relative to the bundle."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def caches(self) -> tuple[TensorSpec, ...]:
        """The inputs that hold what earlier steps computed; none of an encoder's."""
        return tuple(spec for spec in self.inputs if names.PAST in spec.axes)


def encoder_specs(architecture: Architecture, dtype: Dtype) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of an encoder graph."""
    source = (names.BATCH, names.SOURCE)
    inputs = (
        TensorSpec(name=names.INPUT_IDS, dtype="int64", axes=source),
        TensorSpec(name=names.ATTENTION_MASK, dtype="int64", axes=source),
    )
    return inputs, tuple(_cross_specs(architecture, dtype))


def decoder_specs(architecture: Architecture, dtype: Dtype) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a decoder-step graph; `rows` is a multiple of `batch`, beams of one input side by side."""
    inputs = (
        TensorSpec(name=names.INPUT_IDS, dtype="int64", axes=(names.ROWS, names.POSITIONS)),
        TensorSpec(name=names.ATTENTION_MASK, dtype="int64", axes=(names.BATCH, names.SOURCE)),
        TensorSpec(name=names.BEAM_ROWS, dtype="int64", axes=(names.ROWS,)),
        *_cross_specs(architecture, dtype),
        *_cache_specs(architecture, dtype, names.past_names, names.PAST),
    )
    logits = TensorSpec(name=names.LOGITS, dtype="float32", axes=(names.ROWS, names.POSITIONS, architecture.vocab_size))
    grown = f"{names.PAST} + {names.POSITIONS}"
    return inputs, (logits, *_cache_specs(architecture, dtype, names.present_names, grown))


def empty_cache(specs: Iterable[TensorSpec], rows: int) -> dict[str, NDArray[Any]]:
    """The caches of a decoder's first step, which hold no tokens yet.

    Args:
        specs: a graph's inputs; those that are no cache are passed over.
        rows: of the decoder.

    Returns:
        for each cache's name an array of length 0. NumPy has no bfloat16: such caches come as 16-bit integers.
    """
    sizes = {names.ROWS: rows, names.PAST: 0}
    return {
        spec.name: np.empty(spec.shape(sizes), "uint16" if spec.dtype == "bfloat16" else spec.dtype)
        for spec in specs
        if names.PAST in spec.axes
    }


def _cross_specs(architecture: Architecture, dtype: Dtype) -> Iterator[TensorSpec]:
    heads, d_kv = architecture.num_heads, architecture.d_kv
    for layer in range(architecture.decoder.layers):
        key, value = names.cross_names(layer)
        yield TensorSpec(name=key, dtype=dtype, axes=(names.BATCH, heads, d_kv, names.SOURCE))
        yield TensorSpec(name=value, dtype=dtype, axes=(names.BATCH, heads, names.SOURCE, d_kv))


def _cache_specs(
    architecture: Architecture, dtype: Dtype, names_of: Callable[[int], tuple[str, str]], length: Axis
) -> Iterator[TensorSpec]:
    axes = (names.ROWS, architecture.num_heads, length, architecture.d_kv)
    for layer in range(architecture.decoder.layers):
        for name in names_of(layer):
            yield TensorSpec(name=name, dtype=dtype, axes=axes)
