"""Graphs and their interface: dtypes and axes of what goes in and out, under the names of `names`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from pointsman.bundle import names
from pointsman.bundle.architecture import Architecture

Axis = str | int
Dtype = Literal["float32", "bfloat16", "float16"]
Role = Literal["encoder", "decoder"]
ROLES: Final[tuple[Role, ...]] = ("encoder", "decoder")
CAPACITY_MULTIPLE: Final = 32  # tokens: caches have room for a multiple of so many
SOURCE_BLOCK: Final = 64
"""Tokens: on the CPU, what is encoded is kept in blocks of so many. Half of an input's last one is padding, on average,
and each block takes part in a second softmax."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """An input or output of a graph: its name, dtype, and axes (a number, or the name of a dynamic axis)."""

    name: str
    dtype: Literal["float32", "bfloat16", "float16", "int64"]
    axes: tuple[Axis, ...]

    @property
    def is_cache(self) -> bool:
        """Whether it has a row's tokens of all steps."""
        return names.ROWS in self.axes and names.CAPACITY in self.axes

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
        return tuple(spec for spec in self.inputs if spec.is_cache)


def encoder_specs(architecture: Architecture, dtype: Dtype) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of an encoder graph."""
    source = (names.BATCH, names.SOURCE)
    inputs = (
        TensorSpec(name=names.INPUT_IDS, dtype="int64", axes=source),
        TensorSpec(name=names.ATTENTION_MASK, dtype="int64", axes=source),
    )
    return inputs, tuple(_cross_specs(architecture, dtype))


def decoder_specs(
    architecture: Architecture, dtype: Dtype, positions: Axis = names.POSITIONS
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a decoder-step graph, which takes so many positions of each row: any number, or one.

    A row continues the sequence of which its cache holds `lengths[row]` tokens; what lies behind those is never
    attended to, but must be finite. A step writes the keys and values of its own positions behind them, and changes
    nothing else: a cache that goes in and the one that comes out may be the same memory. `cache_positions` are 0, 1, 2
    and so on up to the capacity, so that nothing has to be made of shapes. `attending` makes what says which rows
    attend to which input.
    """
    heads = architecture.num_heads
    inputs = (
        TensorSpec(name=names.INPUT_IDS, dtype="int64", axes=(names.ROWS, positions)),
        TensorSpec(name=names.ATTENTION_MASK, dtype="int64", axes=(names.BATCH, names.SOURCE)),
        TensorSpec(name=names.LENGTHS, dtype="int64", axes=(names.ROWS,)),
        TensorSpec(name=names.CACHE_POSITIONS, dtype="int64", axes=(names.CAPACITY,)),
        TensorSpec(name=names.ATTENDING_QUERIES, dtype="int64", axes=(names.BATCH, heads, names.WIDTH)),
        TensorSpec(name=names.ATTENDED_PLACES, dtype="int64", axes=(names.ROWS, positions, heads)),
        *_cross_specs(architecture, dtype),
        *_cache_specs(architecture, dtype, names.past_names),
    )
    logits = TensorSpec(name=names.LOGITS, dtype="float32", axes=(names.ROWS, positions, architecture.vocab_size))
    return inputs, (logits, *_cache_specs(architecture, dtype, names.present_names))


def cache_capacity(tokens: int) -> int:
    """The least capacity of a cache that has room for so many tokens of each row."""
    return max(-(-tokens // CAPACITY_MULTIPLE), 1) * CAPACITY_MULTIPLE


def source_blocks(tokens: int) -> int:
    """How many blocks an input of so many tokens fills."""
    return -(-tokens // SOURCE_BLOCK)


def attending(
    inputs: NDArray[np.int64], batch: int, *, heads: int, positions: int = 1, least_width: int = 1
) -> dict[str, NDArray[np.int64]]:
    """Which rows attend to which input, as a decoder step is told.

    A query is one head of one position of one row: number `(row * positions + position) * heads + head`. The step
    brings together those that attend to the same input, so that its keys and values are read once.

    Args:
        inputs: int64 [rows], the input that each row attends to.
        batch: how many inputs there are.
        heads: of attention.
        positions: that the step feeds to each row.
        least_width: rows that the grid has room for in each input, at least.

    Returns:
        by name, int64 [batch, heads, width] the queries that attend to each input, where one with fewer than `width`
        repeats some query; and int64 [rows, positions, heads], the place of each query in that grid.
    """
    counts = np.bincount(inputs, minlength=batch)
    rows, order = np.arange(len(inputs)), np.argsort(inputs, kind="stable")
    column = np.empty_like(rows)
    column[order] = rows - np.repeat(np.cumsum(counts) - counts, counts)
    grid = np.zeros((batch, max(counts.max(), least_width)), np.int64)
    grid[inputs, column] = rows
    every_position, every_head = np.arange(positions), np.arange(heads)
    tokens = (grid[:, :, None] * positions + every_position).reshape(batch, -1)
    queries = tokens[:, None, :] * heads + every_head[:, None]
    columns = column[:, None] * positions + every_position
    places = (inputs[:, None, None] * heads + every_head) * tokens.shape[1] + columns[:, :, None]
    return {names.ATTENDING_QUERIES: queries, names.ATTENDED_PLACES: places}


def side_by_side(
    specs: Iterable[TensorSpec], batch: int, rows: int, positions: int = 1
) -> dict[str, NDArray[np.int64]]:
    """`attending` where each of `batch` inputs has equally many of the rows, and those lie together.

    Args:
        specs: a decoder's inputs.
        batch: how many inputs there are.
        rows: of all of them.
        positions: that the step feeds to each row.
    """
    inputs = np.repeat(np.arange(batch), rows // batch)
    return attending(inputs, batch, heads=attention_heads(specs), positions=positions)


def attention_heads(specs: Iterable[TensorSpec]) -> int:
    """How many heads the attention of a decoder with these inputs has."""
    (heads,) = {spec.axes[1] for spec in specs if spec.name == names.ATTENDING_QUERIES}
    return cast("int", heads)


def cache_positions(capacity: int) -> dict[str, NDArray[np.int64]]:
    """What a decoder step is told of a cache with room for so many tokens."""
    return {names.CACHE_POSITIONS: np.arange(capacity)}


def empty_cache(specs: Iterable[TensorSpec], rows: int, capacity: int) -> dict[str, NDArray[Any]]:
    """Caches that hold no tokens yet.

    Args:
        specs: a graph's inputs; those that are no cache are passed over.
        rows: of the decoder.
        capacity: tokens that each row has room for, such as `cache_capacity` gives.

    Returns:
        for each cache's name zeros. NumPy has no bfloat16: such caches come as 16-bit integers.
    """
    sizes = {names.ROWS: rows, names.CAPACITY: capacity}
    return {
        spec.name: np.zeros(spec.shape(sizes), "uint16" if spec.dtype == "bfloat16" else spec.dtype)
        for spec in specs
        if spec.is_cache
    }


def whole_targets(specs: Iterable[TensorSpec], rows: int, positions: int) -> dict[str, NDArray[Any]]:
    """What a decoder takes besides ids and what was encoded, to run over whole targets: one for each input.

    Args:
        specs: its inputs.
        rows: targets.
        positions: tokens of each.
    """
    specs, capacity = tuple(specs), cache_capacity(positions)
    lengths = {names.LENGTHS: np.zeros(rows, np.int64)}
    attended = side_by_side(specs, rows, rows, positions)
    return lengths | cache_positions(capacity) | attended | empty_cache(specs, rows, capacity)


def _cross_specs(architecture: Architecture, dtype: Dtype) -> Iterator[TensorSpec]:
    heads, d_kv = architecture.num_heads, architecture.d_kv
    for layer in range(architecture.decoder.layers):
        key, value = names.cross_names(layer)
        yield TensorSpec(name=key, dtype=dtype, axes=(names.BATCH, heads, d_kv, names.SOURCE))
        yield TensorSpec(name=value, dtype=dtype, axes=(names.BATCH, heads, names.SOURCE, d_kv))


def _cache_specs(
    architecture: Architecture, dtype: Dtype, names_of: Callable[[int], tuple[str, str]]
) -> Iterator[TensorSpec]:
    axes = (names.ROWS, architecture.num_heads, names.CAPACITY, architecture.d_kv)
    for layer in range(architecture.decoder.layers):
        for name in names_of(layer):
            yield TensorSpec(name=name, dtype=dtype, axes=axes)
