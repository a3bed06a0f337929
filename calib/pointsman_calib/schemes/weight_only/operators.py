"""ONNX Runtime's operators over blocks of codes (domain com.microsoft), as nodes.

With accuracy level 4, MatMulNBits rounds its inputs to int8, in the weight's blocks, and multiplies int8 by int8. Where
that costs too much, its inputs come in two parts: what int8 makes of them, which the operator then takes exactly, and
the rest, at most 1/254 of a block's largest, rounded by itself. The two products together are as exact as with 15 bits,
in a fraction of the time of the operator's float path, which for 8-bit weights unpacks all of the weight each time.
Both parts are rows of one product, so that each weight is read once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pointsman_calib.rounding import LARGEST_INT8, BlockFormat

DOMAIN: Final = "com.microsoft"
_INT8_INPUTS: Final = 4  # accuracy_level
_LEAST_STEP: Final = 1e-30  # of a block of zeros


@dataclass(frozen=True, slots=True)
class Operand:
    """A quantized weight [inputs, out] in a graph.

    Attributes:
        codes: initializer, uint8 [out, blocks, bytes].
        scales: initializer, float32 [out, blocks].
        form: bits and block size.
        inputs: rows of the weight.
        out: its columns.
    """

    codes: ir.Value
    scales: ir.Value
    form: BlockFormat
    inputs: int
    out: int

    @property
    def has_whole_blocks(self) -> bool:
        """Whether no block is padded; only then can inputs come in two parts."""
        return self.inputs % self.form.block_size == 0


class Expression:
    """Nodes that take the place of one, and are named after it.

    Attributes:
        nodes: in order.
    """

    def __init__(self, name: str) -> None:
        self.name, self.nodes = name, list[ir.Node]()

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

    def constant(self, array: NDArray[Any]) -> ir.Value:
        """Add a constant."""
        return self.op("Constant", [], {"value": ir.tensor(array)})

    def lookup(self, rows: ir.Value, scales: ir.Value, indices: ir.Value, block_size: int) -> ir.Value:
        """Rows of codes uint8 [out, inputs] as float32."""
        attributes = {"bits": 8, "block_size": block_size, "gather_axis": 0, "quantize_axis": 1}
        return self.op("GatherBlockQuantized", [rows, indices, scales], attributes, DOMAIN)

    def product(self, inputs: ir.Value, weight: Operand) -> ir.Value:
        """Inputs float32 [..., inputs], rounded to int8, times a weight."""
        attributes = {
            "K": weight.inputs,
            "N": weight.out,
            "bits": weight.form.bits,
            "block_size": weight.form.block_size,
            "accuracy_level": _INT8_INPUTS,
        }
        return self.op("MatMulNBits", [inputs, weight.codes, weight.scales], attributes, DOMAIN)

    def fine_product(self, parts: ir.Value, weight: Operand) -> ir.Value:
        """Inputs in two int8 parts, as `parts` gives them, times a weight of whole blocks."""
        halves = self.halves(self.product(parts, weight))
        return self.op("Add", halves)

    def parts(self, inputs: ir.Value, weight: Operand) -> ir.Value:
        """Inputs float32 [rows, ..., inputs] as [2 rows, ..., inputs]: what int8 makes of them, then the rest."""
        coarse = self.rounded(inputs, weight.form.block_size, weight.inputs)
        return self.op("Concat", [coarse, self.op("Sub", [inputs, coarse])], {"axis": 0})

    def rounded(self, inputs: ir.Value, block_size: int, width: int) -> ir.Value:
        """What int8 makes of inputs [..., width] in blocks."""
        shape = self.constant(np.array([-1, width // block_size, block_size], np.int64))
        blocks = self.op("Reshape", [inputs, shape])
        largest = self.op("ReduceMax", [self.op("Abs", [blocks]), self.constant(np.array([2], np.int64))])
        step = self.op("Mul", [largest, self.constant(np.array(1 / LARGEST_INT8, np.float32))])
        step = self.op("Max", [step, self.constant(np.array(_LEAST_STEP, np.float32))])
        coarse = self.op("Mul", [self.op("Round", [self.op("Div", [blocks, step])]), step])
        return self.op("Reshape", [coarse, self.op("Shape", [inputs])], {"allowzero": 1})
