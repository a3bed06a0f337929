"""Graphs and their interface: dtypes and axes of what goes in and out, under the names of `names`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from pointsman.bundle import names
from pointsman.bundle.architecture import Architecture

Axis = str | int
PAST = "past"  # the axis of cached tokens
Dtype = Literal["float32", "bfloat16", "float16"]
Role = Literal["encoder", "decoder"]
ROLES: Final[tuple[Role, ...]] = ("encoder", "decoder")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """An input or output of a graph: its name, dtype, and axes (a number, or the name of a dynamic axis)."""

    name: str
    dtype: Literal["float32", "bfloat16", "float16", "int64"]
    axes: tuple[Axis, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """An ONNX file and its interface; `file` is relative to the bundle."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def encoder_specs(architecture: Architecture, dtype: Dtype) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of an encoder graph."""
    source = ("batch", "source")
    inputs = (
        TensorSpec(name=names.INPUT_IDS, dtype="int64", axes=source),
        TensorSpec(name=names.ATTENTION_MASK, dtype="int64", axes=source),
    )
    return inputs, tuple(_cross_specs(architecture, dtype))


def decoder_specs(architecture: Architecture, dtype: Dtype) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a decoder-step graph; `rows` is a multiple of `batch`, beams of one input side by side."""
    inputs = (
        TensorSpec(name=names.INPUT_IDS, dtype="int64", axes=("rows", "positions")),
        TensorSpec(name=names.ATTENTION_MASK, dtype="int64", axes=("batch", "source")),
        TensorSpec(name=names.BEAM_ROWS, dtype="int64", axes=("rows",)),
        *_cross_specs(architecture, dtype),
        *_cache_specs(architecture, dtype, names.past_names, PAST),
    )
    logits = TensorSpec(name=names.LOGITS, dtype="float32", axes=("rows", "positions", architecture.vocab_size))
    return inputs, (logits, *_cache_specs(architecture, dtype, names.present_names, f"{PAST} + positions"))


def _cross_specs(architecture: Architecture, dtype: Dtype) -> Iterator[TensorSpec]:
    heads, d_kv = architecture.num_heads, architecture.d_kv
    for layer in range(architecture.decoder.layers):
        key, value = names.cross_names(layer)
        yield TensorSpec(name=key, dtype=dtype, axes=("batch", heads, d_kv, "source"))
        yield TensorSpec(name=value, dtype=dtype, axes=("batch", heads, "source", d_kv))


def _cache_specs(
    architecture: Architecture, dtype: Dtype, names_of: Callable[[int], tuple[str, str]], length: Axis
) -> Iterator[TensorSpec]:
    axes = ("rows", architecture.num_heads, length, architecture.d_kv)
    for layer in range(architecture.decoder.layers):
        for name in names_of(layer):
            yield TensorSpec(name=name, dtype=dtype, axes=axes)
