"""Nodes that take the place of one in a graph."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

DOMAIN: Final = "com.microsoft"


class Expression:
    """Nodes that take the place of one, and are named after it.

    Attributes:
        nodes: in order.
    """

    def __init__(self, name: str, graph: ir.Graph) -> None:
        """Have no nodes.

        Args:
            name: of the node whose place they take.
            graph: the outermost, which holds the constants of all expressions.
        """
        self.name, self.graph, self.nodes = name, graph, list[ir.Node]()

    def op(
        self, operator: str, inputs: Sequence[ir.Value], attributes: dict[str, Any] | None = None, domain: str = ""
    ) -> ir.Value:
        """Add a node; its result."""
        name = f"{self.name}/{len(self.nodes)}.{operator}"
        node = ir.node(operator, inputs, attributes or {}, domain=domain, name=name)
        node.outputs[0].name = f"{name}:0"
        self.nodes.append(node)
        return node.outputs[0]

    def halves(self, value: ir.Value) -> Sequence[ir.Value]:
        """A value [2 rows, ...] as two of [rows, ...]."""
        name = f"{self.name}/{len(self.nodes)}.Split"
        node = ir.node("Split", [value], {"axis": 0, "num_outputs": 2}, num_outputs=2, name=name)
        for number, output in enumerate(node.outputs):
            output.name = f"{name}:{number}"
        self.nodes.append(node)
        return node.outputs

    def constant(self, array: NDArray[Any] | np.generic) -> ir.Value:
        """A constant, which all expressions of the graph share."""
        tensor = np.asarray(array)
        name = f"{tensor.dtype}:{','.join(map(str, tensor.reshape(-1)))}{list(tensor.shape)}"
        if name not in self.graph.initializers:
            held = ir.tensor(tensor, name=name)
            self.graph.register_initializer(
                ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(held.dtype), const_value=held)
            )
        return self.graph.initializers[name]

    def lookup(self, rows: ir.Value, scales: ir.Value, indices: ir.Value, block_size: int) -> ir.Value:
        """Rows of codes uint8 [out, inputs], in INT8 blocks with scales [out, blocks], as float32."""
        attributes = {"bits": 8, "block_size": block_size, "gather_axis": 0, "quantize_axis": 1}
        return self.op("GatherBlockQuantized", [rows, indices, scales], attributes, DOMAIN)
