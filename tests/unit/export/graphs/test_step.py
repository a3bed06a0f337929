"""The decoder's step for one position: what a GPU records, node by node, at switch-base-8's size."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest

from architectures import BASE_8
from pointsman.bundle import Architecture, Dtype
from pointsman_export.graphs.decoder import decoder_graph
from pointsman_export.graphs.weights import places, plan
from pointsman_export.network import Build, Precision

# Operators that ONNX Runtime's CUDA provider runs on the device, in the dtypes that follow.
ON_THE_DEVICE = {
    "Add",
    "Cast",
    "Clip",
    "Concat",
    "Gather",
    "Gelu",
    "Gemm",
    "MatMul",
    "Mul",
    "RMSNormalization",
    "Relu",
    "Sigmoid",
    "Softmax",
    "Sub",
    "TensorScatter",
    "TopK",
    "Transpose",
}
NO_KERNEL = {"Reshape", "Squeeze", "Unsqueeze"}  # the same memory under another shape
DTYPES = {ir.DataType.FLOAT, ir.DataType.BFLOAT16, ir.DataType.FLOAT16, ir.DataType.INT64}
PRECISIONS = ("float32", "bfloat16", "float16")
VARIANTS = {
    "base-8": BASE_8,
    "gated": replace(BASE_8, gated=True, activation="gelu_tanh", tied_head=False),
    "silu, router bias": replace(BASE_8, activation="silu", router_bias=True),
}


@pytest.fixture(scope="module", params=[(name, dtype) for name in VARIANTS for dtype in PRECISIONS], ids="-".join)
def graph(request):
    name, dtype = request.param
    return built(VARIANTS[name], dtype)


def built(architecture: Architecture, dtype: Dtype) -> ir.Graph:
    build = Build(architecture, "portable", Precision.of(dtype), capacity=64).of_one_position
    return decoder_graph(build, places(plan(architecture, dtype), Path("weights.bin"))).graph


def is_constant(value: ir.Value | None) -> bool:
    return value is None or value.const_value is not None


def folded(graph: ir.Graph) -> set[ir.Node]:
    """What has no input that is not known when the graph is loaded: engines compute it then."""
    known, nodes = set(graph.initializers.values()), set()
    for node in graph:
        if all(value is None or value in known for value in node.inputs):
            nodes.add(node)
            known |= set(node.outputs)
    return nodes


def test_every_operator_runs_on_the_device(graph):
    assert {node.op_type for node in graph} <= ON_THE_DEVICE | NO_KERNEL
    assert {node.domain for node in graph} == {""}


def test_no_control_flow_and_nothing_made_of_shapes(graph):
    """So every node is computed from what is in the inputs, and can be replayed."""
    assert not any(attribute.type == ir.AttributeType.GRAPH for node in graph for attribute in node.attributes.values())
    assert not {node.op_type for node in graph} & {"Shape", "Size", "Range", "ConstantOfShape", "NonZero", "Expand"}
    for node in graph:
        if node.op_type in NO_KERNEL | {"TopK"}:
            assert is_constant(node.inputs[1]), node.name


def test_no_dtype_that_the_device_has_no_kernels_for(graph):
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    assert {value.dtype for value in values} <= DTYPES


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 400), ("float32", 400), ("float16", 520)])
def test_kernels_are_few(dtype, most):
    """Keys are transposed within the product that they are a part of: engines fuse the two."""
    graph = built(BASE_8, dtype)
    in_products = {
        node
        for node in graph
        if node.op_type == "Transpose" and {use.node.op_type for use in node.outputs[0].uses()} == {"MatMul"}
    }
    assert len(in_products) == BASE_8.decoder.layers
    kernels = [node for node in graph if node.op_type not in NO_KERNEL and node not in folded(graph) | in_products]
    assert len(kernels) <= most, Counter(node.op_type for node in kernels)


def test_the_residual_stream_is_cast_only_for_the_router_and_the_logits():
    graph = built(BASE_8, "bfloat16")
    casts = [node for node in graph if node.op_type == "Cast" and node not in folded(graph)]
    sparse = len(BASE_8.decoder.sparse_layers)
    assert len(casts) == 2 * sparse + 1  # what a router reads, its probability, and the logits
