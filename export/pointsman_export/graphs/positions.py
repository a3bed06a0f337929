"""Masks and relative positions as nodes: what is added to attention scores."""

import numpy as np
import onnx_ir as ir
import torch

from pointsman.bundle import Architecture
from pointsman_export.checkpoint import NUMPY_DTYPES
from pointsman_export.graphs.scope import Scope
from pointsman_export.network import Build, bucket_table


def lowest(build: Build) -> float:
    """What is added to scores of what may not be attended to: the least number of the stream's dtype."""
    return float(torch.finfo(getattr(torch, build.precision.stream)).min)


def padding_bias(scope: Scope, build: Build, attention_mask: ir.Value) -> ir.Value:
    """What keeps padding from being attended to.

    Args:
        scope: where.
        build: for the stream's dtype.
        attention_mask: int64 [batch, source], 1 for a token and 0 for padding.

    Returns:
        the stream's dtype [batch, 1, 1, source], 0 for a token and the lowest number for padding.
    """
    by_mask = scope.constant(np.array([lowest(build), 0], NUMPY_DTYPES[build.precision.stream]))
    return scope.op("Unsqueeze", scope.op("Gather", by_mask, attention_mask, axis=0), scope.constant([1, 2]))


def counted(scope: Scope, length: ir.Value) -> ir.Value:
    """0, 1, ... below an int64 [1]."""
    return scope.op("Range", scope.scalar(0), scope.op("Squeeze", length), scope.scalar(1))


def causal_bias(module: Scope, build: Build, queries: ir.Value, keys: ir.Value) -> ir.Value:
    """What all blocks of the decoder add to their attention scores: the bias, and the mask of keys after the query.

    Args:
        module: of the first block.
        build: for the buckets, and the stream's dtype.
        queries: int64 [rows, positions, 1], their positions.
        keys: int64 [keys], likewise.

    Returns:
        the stream's dtype [rows, heads, positions, keys].
    """
    architecture = build.architecture
    reach, table = architecture.relative_max_distance, bucket_table(architecture, bidirectional=False)
    after = module.constant(np.full((1, architecture.num_heads), lowest(build), np.float32))
    earlier = module.op("Gather", module.weight(), module.constant(np.flip(table.numpy()[: reach + 1]).copy()), axis=0)
    by_distance = module.op("Concat", after, earlier, axis=0)  # [1 + distances from 0 to reach, heads]
    by_distance = module.cast(by_distance, build.precision.stream)
    distance = module.op("Clip", module.op("Sub", queries, keys), module.scalar(-1), module.scalar(reach))
    bias = module.op("Gather", by_distance, module.op("Add", distance, module.scalar(1)), axis=0)
    return module.op("Transpose", bias, perm=[0, 3, 1, 2])  # from [rows, positions, keys, heads]


def relative_bias(module: Scope, architecture: Architecture, queries: ir.Value, keys: ir.Value) -> ir.Value:
    """The bias that all blocks of the encoder add to their attention scores.

    Args:
        module: of the first block.
        architecture: for the buckets.
        queries: int64 [queries, 1], their positions.
        keys: int64 [1, keys], likewise.

    Returns:
        float32 [1, heads, queries, keys].
    """
    reach, table = architecture.relative_max_distance, bucket_table(architecture, bidirectional=True)
    by_distance = module.op(
        "Gather", module.weight(), module.constant(table.numpy()), axis=0
    )  # [-reach to reach, heads]
    distance = module.op("Sub", module.op("Add", keys, module.scalar(reach)), queries)
    place = module.op("Clip", distance, module.scalar(0), module.scalar(2 * reach))
    bias = module.op("Gather", by_distance, place, axis=0)  # [queries, keys, heads]
    return module.op("Unsqueeze", module.op("Transpose", bias, perm=[2, 0, 1]), module.constant([0]))
