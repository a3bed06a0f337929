"""The layers that all others are made of, as nodes."""

import onnx_ir as ir

from pointsman.bundle import names
from pointsman_export.graphs.scope import Scope
from pointsman_export.network import Build


def linear(module: Scope, hidden: ir.Value) -> ir.Value:
    """A product with a weight stored [in, out], in the dtype of both."""
    return module.op("MatMul", hidden, module.weight())


def embedded(module: Scope, build: Build, ids: ir.Value) -> ir.Value:
    """Token vectors, the stream's dtype [rows, tokens, d_model]."""
    return module.cast(module.op("Gather", module.weight(), ids, axis=0), build.precision.stream)


def normed(layer: Scope, build: Build, hidden: ir.Value) -> ir.Value:
    """The root-mean-square norm at a layer's start (Zhang and Sennrich 2019), summed in float32: no mean, no bias."""
    return norm(layer.at(names.LAYER_NORM), build, hidden)


def norm(module: Scope, build: Build, hidden: ir.Value) -> ir.Value:
    """A norm that is a module of its own."""
    epsilon = build.architecture.layer_norm_epsilon
    return module.op("RMSNormalization", hidden, module.weight(), axis=-1, epsilon=epsilon, stash_type=1)
