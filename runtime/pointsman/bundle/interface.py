"""Graphs and their interface: the names, dtypes and axes of tensors are spelled here and nowhere else."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pointsman.bundle.architecture import Architecture

Axis = str | int
Dtype = Literal["float32", "bfloat16", "float16"]
Role = Literal["encoder", "decoder"]


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
        TensorSpec(name="input_ids", dtype="int64", axes=source),
        TensorSpec(name="attention_mask", dtype="int64", axes=source),
    )
    return inputs, tuple(_cross_specs(architecture, dtype))


def decoder_specs(architecture: Architecture, dtype: Dtype) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a decoder-step graph; `rows` is a multiple of `batch`, beams of one input side by side."""
    inputs = (
        TensorSpec(name="input_ids", dtype="int64", axes=("rows", "positions")),
        TensorSpec(name="attention_mask", dtype="int64", axes=("batch", "source")),
        TensorSpec(name="beam_rows", dtype="int64", axes=("rows",)),
        *_cross_specs(architecture, dtype),
        *_cache_specs(architecture, dtype, "past", "past"),
    )
    logits = TensorSpec(name="logits", dtype="float32", axes=("rows", "positions", architecture.vocab_size))
    return inputs, (logits, *_cache_specs(architecture, dtype, "present", "past + positions"))


def _cross_specs(architecture: Architecture, dtype: Dtype) -> Iterator[TensorSpec]:
    heads, d_kv = architecture.num_heads, architecture.d_kv
    for layer in range(architecture.decoder.layers):
        yield TensorSpec(name=f"cross_key.{layer}", dtype=dtype, axes=("batch", heads, d_kv, "source"))
        yield TensorSpec(name=f"cross_value.{layer}", dtype=dtype, axes=("batch", heads, "source", d_kv))


def _cache_specs(architecture: Architecture, dtype: Dtype, prefix: str, length: Axis) -> Iterator[TensorSpec]:
    axes = ("rows", architecture.num_heads, length, architecture.d_kv)
    for layer in range(architecture.decoder.layers):
        yield TensorSpec(name=f"{prefix}_key.{layer}", dtype=dtype, axes=axes)
        yield TensorSpec(name=f"{prefix}_value.{layer}", dtype=dtype, axes=axes)
