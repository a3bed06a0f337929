"""Inputs of products, prepared once for all products that share them.

Experts share theirs too: tokens are sorted by expert, and each expert takes its slice of them. So tokens are rounded
before they are sorted, all at once, and what is sorted and sliced are bytes.
"""

from typing import Any

import onnx_ir as ir

from pointsman_calib.graphs.expression import Expression
from pointsman_calib.schemes.weight_only.block_products import BlockWeight
from pointsman_calib.schemes.weight_only.integer_products import IntegerInputs, IntegerWeight, RoundedRows, rounded_rows


class SharedInputs:
    """What has been prepared in a graph so far."""

    def __init__(self, graph: ir.Graph) -> None:
        """Have prepared nothing.

        Args:
            graph: the outermost.
        """
        self._graph = graph
        self._prepared: dict[tuple[object, ir.Value, int | None, bool], Any] = {}
        self._sorted: dict[tuple[ir.Value, bool], RoundedRows] = {}

    def of(self, node: ir.Node, expression: Expression, operand: BlockWeight | IntegerWeight, *, fine: bool) -> Any:  # noqa: ANN401 - what this sort of operand takes
        """Inputs of a product, for what takes its place.

        Args:
            node: the product.
            expression: what takes its place; what has to be prepared is added to it.
            operand: its quantized weight.
            fine: whether inputs come in two parts.
        """
        inputs = node.inputs[0]
        assert inputs is not None
        key = (node.graph, inputs, operand.block_size if isinstance(operand, BlockWeight) else None, fine)
        if key not in self._prepared:
            self._prepared[key] = self._prepare(expression, operand, inputs, fine=fine)
        return self._prepared[key]

    def _prepare(
        self, expression: Expression, operand: BlockWeight | IntegerWeight, inputs: ir.Value, *, fine: bool
    ) -> IntegerInputs | ir.Value:
        slicing = inputs.producer()
        if isinstance(operand, BlockWeight) or slicing is None or not _takes_sorted(slicing):
            return operand.prepared(expression, inputs, fine=fine)
        sliced, *bounds = (value for value in slicing.inputs if value is not None)
        rows = self._sorted_rows(sliced, fine=fine)
        return rows.taken(lambda value: expression.op("Slice", [value, *bounds])).joined(expression)

    def _sorted_rows(self, value: ir.Value, *, fine: bool) -> RoundedRows:
        """What a `Gather` of rows gives, rounded before it and not behind it."""
        if (value, fine) not in self._sorted:
            gather = value.producer()
            assert gather is not None
            assert isinstance(gather.graph, ir.Graph)
            rows, order = (value for value in gather.inputs if value is not None)
            expression = Expression(f"{gather.name}/{'fine' if fine else 'coarse'}", self._graph)
            rounded = rounded_rows(expression, rows, fine=fine)
            self._sorted[value, fine] = rounded.taken(lambda part: expression.op("Gather", [part, order], {"axis": 0}))
            gather.graph.insert_after(gather, expression.nodes)
        return self._sorted[value, fine]


def _takes_sorted(node: ir.Node) -> bool:
    """Whether a node takes some of the rows that were put in another order."""
    inputs = [value for value in node.inputs if value is not None]
    if node.op_type != "Slice" or len(inputs) != 4:
        return False
    gather, axes = inputs[0].producer(), ir.convenience.get_const_tensor(inputs[3])
    if gather is None or gather.op_type != "Gather" or axes is None:
        return False
    axis = gather.attributes.get("axis")
    return axes.numpy().tolist() == [0] and (axis is None or axis.as_int() == 0)
