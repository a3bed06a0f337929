"""Products of integers: int8 weights with one scale a column, times inputs rounded to uint8 with one scale a row.

All sums are of integers, so that a row's results are the same whatever rows it shares a product with, and on every
processor. (Integer-arithmetic-only products: Jacob et al. 2018, §2.2, equations 4 and 7; a scale for each row as in
Dettmers et al., "LLM.int8()" (2022), §3.1.) The inputs are unsigned, since ONNX Runtime has no fast product of two
signed ones.

A row is divided by its largest magnitude, rounded to steps of 1/127 around code 128, and multiplied; the result is
scaled back. Of a row of zeros the division gives NaN, whatever code is made of which, the result is scaled by zero.
What ReLU gives has no negative numbers, so that all 255 steps are spent above zero; and since 0 is the least code, what
is negative becomes 0 without a ReLU. Behind a product of integers the row's scale cancels out, so that only the largest
is scaled. Both spare passes over the widest values there are.

Where one rounding costs too much, inputs come in two parts: the codes, and what is left, in steps of 1/254 of a code.
The two products together are as exact as with 15 bits. Both parts are rows of one product, so that each weight is
read once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx_ir as ir

from pointsman_calib.graphs.expression import DOMAIN, Expression
from pointsman_calib.rounding import LARGEST_INT8

_MIDDLE: Final = 128
_FINER: Final = 2 * LARGEST_INT8  # steps of the second part in one of the first
_UNSCALED: Final = "unscaled"  # of a value: what its rows were before they were scaled, and the scales


@dataclass(frozen=True, slots=True)
class IntegerInputs:
    """Inputs of products.

    Attributes:
        codes: uint8 [rows, ..., inputs], or twice the rows in two parts.
        largest: float32 [rows, ..., 1], by which a row is scaled back.
        step: float32, what a code stands for, before a row is scaled back.
        middle: uint8, the code of zero.
    """

    codes: ir.Value
    largest: ir.Value
    step: ir.Value
    middle: ir.Value


@dataclass(frozen=True, slots=True)
class RoundedRows:
    """Rows as codes, of which some can be taken before they are multiplied.

    Attributes:
        parts: uint8 [rows, ..., inputs] each; one, or a coarse and a fine one.
        largest: float32 [rows, ..., 1], by which a row is scaled back.
        step: as of `IntegerInputs`.
        middle: likewise.
    """

    parts: tuple[ir.Value, ...]
    largest: ir.Value
    step: ir.Value
    middle: ir.Value

    def taken(self, take: Callable[[ir.Value], ir.Value]) -> "RoundedRows":
        """Some of the rows, by what takes them from a value."""
        return replace(self, parts=tuple(take(part) for part in self.parts), largest=take(self.largest))

    def joined(self, expression: Expression) -> IntegerInputs:
        """All parts as rows of one product."""
        codes = self.parts[0] if len(self.parts) == 1 else expression.op("Concat", self.parts, {"axis": 0})
        return IntegerInputs(codes, self.largest, self.step, self.middle)


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
        return rounded_rows(expression, inputs, fine=fine).joined(expression)

    def product(self, expression: Expression, prepared: IntegerInputs, *, fine: bool) -> ir.Value:
        """Prepared inputs times the weight, float32 [rows, ..., out]."""
        operands = [prepared.codes, self.codes, prepared.step, self.scales, prepared.middle]
        result = expression.op("MatMulIntegerToFloat", operands, domain=DOMAIN)
        if fine:
            coarse, rest = expression.halves(result)
            rest = expression.op("Mul", [rest, expression.constant(np.float32(1 / _FINER))])
            result = expression.op("Add", [coarse, rest])
        scaled = expression.op("Mul", [result, prepared.largest])
        scaled.meta[_UNSCALED] = result, prepared.largest
        return scaled


def rounded_rows(expression: Expression, inputs: ir.Value, *, fine: bool) -> RoundedRows:
    """Inputs float32 [rows, ..., inputs] as codes, in two parts where they are to be fine."""
    before = _before_relu(inputs)
    positive = before is not None and not fine
    values, scales = before or (inputs, None)
    if before is not None and fine:
        values = expression.op("Relu", [values])
    magnitudes = expression.op("Abs", [values]) if before is None else values
    last = expression.constant(np.array([-1], np.int64))
    largest = expression.op("ReduceMax", [magnitudes, last], {"keepdims": 1})
    if positive:
        largest = expression.op("Relu", [largest])
    share = expression.op("Div", [values, largest])
    step = expression.constant(np.float32(1 / 255 if positive else 1 / LARGEST_INT8))
    middle = expression.constant(np.uint8(0 if positive else _MIDDLE))
    parts: tuple[ir.Value, ...] = (expression.op("QuantizeLinear", [share, step, middle]),)
    if fine:
        rest = expression.op("Sub", [share, expression.op("DequantizeLinear", [parts[0], step, middle])])
        finer = expression.constant(np.float32(1 / LARGEST_INT8 / _FINER))
        parts = (*parts, expression.op("QuantizeLinear", [rest, finer, middle]))
    if scales is not None:
        largest = expression.op("Mul", [largest, scales])
    return RoundedRows(parts, largest, step, middle)


def _before_relu(value: ir.Value) -> tuple[ir.Value, ir.Value | None] | None:
    """What ReLU takes, before its rows are scaled where they are to be; None, if the value is not of a ReLU."""
    relu = value.producer()
    if relu is None or relu.op_type != "Relu":
        return None
    (taken,) = relu.inputs
    assert taken is not None
    unscaled: tuple[ir.Value, ir.Value | None] = taken.meta.get(_UNSCALED, (taken, None))
    return unscaled
