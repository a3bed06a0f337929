"""Products of integers: int8 weights with one scale a column, times inputs rounded to uint8 with one scale a row.

All sums are of integers, so that a row's results are the same whatever rows it shares a product with, and on every
processor. (Integer-arithmetic-only products: Jacob et al. 2018, §2.2, equations 4 and 7; a scale for each row as in
Dettmers et al., "LLM.int8()" (2022), §3.1.) The inputs are unsigned, since ONNX Runtime has no fast product of two
signed ones.

A row is divided by its largest magnitude, rounded to steps of 1/127 around code 128, and multiplied; the result is
scaled back. Of a row of zeros the division gives NaN, whatever code is made of which, the result is scaled by zero.
What ReLU gives has no negative numbers, so that all 255 steps are spent above zero.

Where one rounding costs too much, inputs come in two parts: the codes, and what is left, in steps of 1/254 of a code.
The two products together are as exact as with 15 bits. Both parts are rows of one product, so that each weight is
read once.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from pointsman_calib.rounding import LARGEST_INT8
from pointsman_calib.schemes.weight_only.expression import DOMAIN, Expression

_MIDDLE: Final = 128
_FINER: Final = 2 * LARGEST_INT8  # steps of the second part in one of the first


@dataclass(frozen=True, slots=True)
class IntegerInputs:
    """Inputs of products.

    Attributes:
        codes: uint8 [rows, ..., inputs], or twice the rows in two parts.
        largest: float32 [rows, ..., 1], the magnitude that each row was divided by.
        step: float32, what a code stands for, before a row is scaled back.
        middle: uint8, the code of zero.
    """

    codes: ir.Value
    largest: ir.Value
    step: ir.Value
    middle: ir.Value


@dataclass(frozen=True, slots=True)
class IntegerWeight:
    """A weight [inputs, out] as integers.

    Attributes:
        codes: initializer, int8 [inputs, out].
        scales: initializer, float32 [out].
    """

    codes: ir.Value
    scales: ir.Value
    can_be_fine = True

    def prepared(self, expression: Expression, inputs: ir.Value, *, fine: bool) -> IntegerInputs:
        """Inputs float32 [rows, ..., inputs] for a product."""
        positive = _is_positive(inputs) and not fine
        magnitudes = inputs if positive else expression.op("Abs", [inputs])
        last = expression.constant(np.array([-1], np.int64))
        largest = expression.op("ReduceMax", [magnitudes, last], {"keepdims": 1})
        share = expression.op("Div", [inputs, largest])
        step = expression.constant(np.float32(1 / 255 if positive else 1 / LARGEST_INT8))
        middle = expression.constant(np.uint8(0 if positive else _MIDDLE))
        codes = expression.op("QuantizeLinear", [share, step, middle])
        if fine:
            rest = expression.op("Sub", [share, expression.op("DequantizeLinear", [codes, step, middle])])
            finer = expression.constant(np.float32(1 / LARGEST_INT8 / _FINER))
            codes = expression.op(
                "Concat", [codes, expression.op("QuantizeLinear", [rest, finer, middle])], {"axis": 0}
            )
        return IntegerInputs(codes, largest, step, middle)

    def product(self, expression: Expression, prepared: IntegerInputs, *, fine: bool) -> ir.Value:
        """Prepared inputs times the weight, float32 [rows, ..., out]."""
        operands = [prepared.codes, self.codes, prepared.step, self.scales, prepared.middle]
        result = expression.op("MatMulIntegerToFloat", operands, domain=DOMAIN)
        if fine:
            coarse, rest = expression.halves(result)
            rest = expression.op("Mul", [rest, expression.constant(np.float32(1 / _FINER))])
            result = expression.op("Add", [coarse, rest])
        return expression.op("Mul", [result, prepared.largest])


def _is_positive(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "Relu"
