"""Products with blocks of codes, by ONNX Runtime's MatMulNBits: they read fewest bytes, and are best at few rows.

With accuracy level 4, MatMulNBits rounds its inputs to int8, in the weight's blocks, and multiplies int8 by int8. Where
that costs too much, its inputs come in two parts: what int8 makes of them, which the operator then takes exactly, and
the rest, at most 1/254 of a block's largest, rounded by itself. The two products together are as exact as with 15 bits.
Both parts are rows of one product, so that each weight is read once.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from pointsman_calib.graphs.expression import DOMAIN, Expression
from pointsman_calib.rounding import LARGEST_INT8

_INT8_INPUTS: Final = 4  # accuracy_level
_LEAST_STEP: Final = 1e-30  # of a block of zeros


@dataclass(frozen=True, slots=True)
class BlockWeight:
    """A weight [inputs, out] in blocks of codes.

    Attributes:
        codes: initializer, uint8 [out, blocks, bytes].
        scales: initializer, float32 [out, blocks].
        bits: of a code.
        block_size: inputs that share a scale.
        inputs: rows of the weight.
        out: its columns.
    """

    codes: ir.Value
    scales: ir.Value
    bits: int
    block_size: int
    inputs: int
    out: int

    @property
    def can_be_fine(self) -> bool:
        """Whether inputs can come in two parts: only where no block is padded."""
        return self.inputs % self.block_size == 0

    def prepared(self, expression: Expression, inputs: ir.Value, *, fine: bool) -> ir.Value:
        """Inputs float32 [rows, ..., inputs] for a product: as they are, or [2 rows, ..., inputs], in two parts."""
        if not fine:
            return inputs
        coarse = self._rounded(expression, inputs)
        return expression.op("Concat", [coarse, expression.op("Sub", [inputs, coarse])], {"axis": 0})

    def product(self, expression: Expression, prepared: ir.Value, *, fine: bool) -> ir.Value:
        """Prepared inputs times the weight, float32 [rows, ..., out]."""
        attributes = {
            "K": self.inputs,
            "N": self.out,
            "bits": self.bits,
            "block_size": self.block_size,
            "accuracy_level": _INT8_INPUTS,
        }
        result = expression.op("MatMulNBits", [prepared, self.codes, self.scales], attributes, DOMAIN)
        return expression.op("Add", expression.halves(result)) if fine else result

    def _rounded(self, expression: Expression, inputs: ir.Value) -> ir.Value:
        """What int8 makes of inputs, in blocks."""
        shape = expression.constant(np.array([-1, self.inputs // self.block_size, self.block_size], np.int64))
        blocks = expression.op("Reshape", [inputs, shape])
        axis = expression.constant(np.array([2], np.int64))
        largest = expression.op("ReduceMax", [expression.op("Abs", [blocks]), axis])
        step = expression.op("Mul", [largest, expression.constant(np.float32(1 / LARGEST_INT8))])
        step = expression.op("Max", [step, expression.constant(np.float32(_LEAST_STEP))])
        codes = expression.op("Round", [expression.op("Div", [blocks, step])])
        coarse = expression.op("Mul", [codes, step])
        return expression.op("Reshape", [coarse, expression.op("Shape", [inputs])], {"allowzero": 1})
