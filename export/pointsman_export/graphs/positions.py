"""Masks and relative positions as nodes: what is added to attention scores."""

import numpy as np
import onnx_ir as ir

from pointsman.bundle import Architecture
from pointsman_export.graphs.scope import Scope
from pointsman_export.network import bucket_table

LOWEST = float(np.finfo(np.float32).min)


def masked(scope: Scope, keep: ir.Value) -> ir.Value:
    """An additive mask: 0 where `keep` is 1 or true, the lowest float32 elsewhere, as the reference adds it."""
    dropped = scope.op("Sub", scope.constant(np.ones(1, np.float32)), scope.op("Cast", keep, to=ir.DataType.FLOAT))
    return scope.op("Mul", dropped, scope.constant(np.array([LOWEST], np.float32)))


def padding_bias(scope: Scope, attention_mask: ir.Value) -> ir.Value:
    """What keeps padding from being attended to: float32 [batch, 1, 1, source] from int64 [batch, source]."""
    return scope.op("Unsqueeze", masked(scope, attention_mask), scope.constant([1, 2]))


def counted(scope: Scope, length: ir.Value) -> ir.Value:
    """0, 1, ... below an int64 [1]."""
    return scope.op("Range", scope.scalar(0), scope.op("Squeeze", length), scope.scalar(1))


def relative_bias(
    module: Scope, architecture: Architecture, queries: ir.Value, keys: ir.Value, *, bidirectional: bool
) -> ir.Value:
    """The bias that all blocks of a stack add to their attention scores.

    Args:
        module: of the stack's first block.
        architecture: for the buckets.
        queries: int64 [queries, 1], their positions.
        keys: int64 [1, keys], likewise.
        bidirectional: whether keys after the query get buckets of their own.

    Returns:
        float32 [1, heads, queries, keys].
    """
    reach, table = architecture.relative_max_distance, bucket_table(architecture, bidirectional=bidirectional)
    near = module.op("Clip", module.op("Sub", keys, queries), module.scalar(-reach), module.scalar(reach))
    place = module.op("Add", near, module.scalar(reach))
    bucket = module.op("Gather", module.constant(table.numpy()), place, axis=0)
    bias = module.op("Gather", module.weight(), bucket, axis=0)  # [queries, keys, heads]
    return module.op("Unsqueeze", module.op("Transpose", bias, perm=[2, 0, 1]), module.constant([0]))
