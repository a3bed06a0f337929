"""Which products of a portable graph have weights, and where their inputs are.

Weights are known by the initializers that products read, directly or, for the experts of a decoder step, through the
`Gather` that fetches each token's expert. Routers are not among them: they stay in float.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from pointsman.bundle import Role

EXPERTS: Final = ".experts."
ROUTER: Final = ".router."
_DOT_BEFORE_A_NAME: Final = r"\.(?!\d)"  # nodes are named /encoder/block.0/layer.0


@dataclass(frozen=True, slots=True)
class Product:
    """One product of activations and a weight.

    Attributes:
        role: the graph it is in.
        weight: name of the initializer.
        inputs: name of the value that it multiplies: [..., inputs]; for experts, [experts, tokens, inputs] of buckets
            or [tokens, 1, inputs] of fetched experts.
        output_axis: the axis of the weight that is the product's output: 1 of [inputs, out], 0 of [out, inputs].
        layer: for experts, the sparse layer's module path, such as `encoder.block.1.layer.1.mlp`.
        gathered: for experts, whether each token's weights are fetched.
    """

    role: Role
    weight: str
    inputs: str
    output_axis: int
    layer: str | None = None
    gathered: bool = False

    @property
    def tensor(self) -> str:
        """Name of the inputs in a range table, where both graphs meet."""
        return f"{self.role}:{self.inputs}"


def products(graph: ir.Graph, role: Role) -> Iterator[Product]:
    """Every product of the graph with a weight, in order, but routers."""
    for node in graph:
        weight, gathered = weight_of(node)
        if weight is None or ROUTER in str(weight.name):
            continue
        name, inputs = str(weight.name), str(node.inputs[0].name)  # type: ignore[union-attr]
        if EXPERTS in name:
            yield Product(role, name, inputs, 2, layer=name.partition(EXPERTS)[0], gathered=gathered)
        else:
            transposed = node.op_type == "Gemm" and node.attributes["transB"].as_int() == 1
            yield Product(role, name, inputs, 0 if transposed else 1)


def weight_of(node: ir.Node) -> tuple[ir.Value | None, bool]:
    """The weight that a node multiplies with, and whether rows of it are fetched first; None if there is none."""
    if node.op_type not in ("MatMul", "Gemm"):
        return None, False
    source = node.inputs[1]
    fetch = source.producer() if source is not None else None
    gathered = fetch is not None and fetch.op_type == "Gather"
    if fetch is not None and gathered:
        source = fetch.inputs[0]
    return (source, gathered) if is_weight(source) else (None, False)


def is_weight(value: ir.Value | None) -> bool:
    """Whether a value is an initializer in external data."""
    return value is not None and isinstance(value.const_value, ir.ExternalTensor)


def chosen_experts(layer: str) -> str:
    """The value that tells each token's expert, int64 [batch, tokens], in the graph that has the sparse layer."""
    return f"/{re.sub(_DOT_BEFORE_A_NAME, '/', layer)}/ArgMax:0"
