"""The least time that a request can take on a machine, whatever the engine (Williams et al. 2009, "Roofline").

Each run of a graph takes at least as long as reading the weights that it needs, and at least as long as multiplying
with them. Decoding a few rows is bound by reading, encoding a long input by arithmetic. Speeds are the best that any
library here reaches, so that no contestant is faster.
Run as a script it prints the `Speeds` of this machine, with `--threads` threads.
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from cases import Case
from pointsman.bundle import Architecture, names
from pointsman_export.architecture import expected_tensors
from reading import bytes_read

Arithmetic = Literal["float32", "bfloat16", "int8"]

_WORKING_SETS = tuple(size << 20 for size in (32, 64, 128, 256, 1024))  # the last is more than a cache holds
_SHAPES = ((512, 768, 3072), (2048, 2048, 2048))  # an encoder's; one that is large enough for full speed
_REPEATS = 5
_FLOAT32 = 4
_MULTIPLY_AND_ADD = 2


@dataclass(frozen=True, slots=True)
class Speeds:
    """What a machine can do.

    Attributes:
        bytes_a_second: read by all threads, by how many bytes are read again and again; the most of them come from
            memory, fewer from a cache in part.
        operations_a_second: multiplications and additions of a large product, by what is multiplied.
    """

    bytes_a_second: dict[int, float]
    operations_a_second: dict[Arithmetic, float]

    @property
    def memory(self) -> float:
        """Bytes a second where no cache helps."""
        return self.bytes_a_second[max(self.bytes_a_second)]

    def reading(self, size: float) -> float:
        """Bytes a second where so many are read again and again: those of the next smaller size that was measured."""
        smaller = [measured for measured in self.bytes_a_second if measured <= size]
        return self.bytes_a_second[max(smaller, default=min(self.bytes_a_second))]

    def to_json(self) -> dict[str, Any]:
        """For another process, and for results."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """From another process."""
        return cls(
            {int(size): speed for size, speed in fields["bytes_a_second"].items()}, fields["operations_a_second"]
        )

    @classmethod
    def best(cls, measured: Sequence["Speeds"]) -> Self:
        """The best of each."""
        first = measured[0]
        return cls(
            {size: max(each.bytes_a_second[size] for each in measured) for size in first.bytes_a_second},
            {kind: max(each.operations_a_second[kind] for each in measured) for kind in first.operations_a_second},
        )


def speeds(threads: int) -> Speeds:
    """Of this machine, the best of a few tries each."""
    torch.set_num_threads(threads)
    with ThreadPoolExecutor(threads) as pool:
        reading = {size: max(_reading_speeds(size, threads, pool)) for size in _WORKING_SETS}
    return Speeds(
        reading, {"float32": _float32_speed(threads), "bfloat16": _bfloat16_speed(), "int8": _int8_speed(threads)}
    )


def _reading_speeds(size: int, threads: int, pool: ThreadPoolExecutor) -> Iterator[float]:
    """Bytes a second by ways of reading that keep nothing."""
    numbers = np.ones(size // _FLOAT32, np.float32)
    tensor, parts = torch.from_numpy(numbers), np.array_split(numbers, threads)
    integers = [part.view(np.int32) for part in parts]
    vector = torch.ones(1024)
    for read in (
        lambda: list(pool.map(np.max, parts)),
        lambda: list(pool.map(np.bitwise_or.reduce, integers)),
        tensor.max,
        lambda: tensor.view(-1, len(vector)) @ vector,
    ):
        yield size / _least_seconds(read)


def _float32_speed(threads: int) -> float:
    """Of ONNX Runtime's product, or torch's."""
    found = []
    for rows, width, out in _SHAPES:
        left, right = np.ones((rows, width), np.float32), np.ones((width, out), np.float32)
        ours = _product("MatMul", left, right, np.dtype(np.float32), threads)
        theirs = partial(torch.matmul, torch.from_numpy(left), torch.from_numpy(right))
        found.append(_operations(rows, width, out) / min(_least_seconds(ours), _least_seconds(theirs)))
    return max(found)


def _bfloat16_speed() -> float:
    """Of torch's product; of one shape, since a processor that lacks it takes long."""
    rows, width, out = _SHAPES[0]
    left, right = torch.ones(rows, width, dtype=torch.bfloat16), torch.ones(width, out, dtype=torch.bfloat16)
    return _operations(rows, width, out) / _least_seconds(partial(torch.matmul, left, right))


def _int8_speed(threads: int) -> float:
    """Of ONNX Runtime's product of unsigned and signed integers, whose weights are packed, or torch's of signed."""
    found = []
    for rows, width, out in _SHAPES:
        left, right = np.ones((rows, width), np.uint8), np.ones((width, out), np.int8)
        ours = _product("MatMulInteger", left, right, np.dtype(np.int32), threads)
        theirs = partial(torch._int_mm, torch.from_numpy(left.view(np.int8)), torch.from_numpy(right))
        found.append(_operations(rows, width, out) / min(_least_seconds(ours), _least_seconds(theirs)))
    return max(found)


def _operations(rows: int, width: int, out: int) -> int:
    return _MULTIPLY_AND_ADD * rows * width * out


def _product(
    operator: str, left: NDArray[Any], right: NDArray[Any], result: np.dtype[Any], threads: int
) -> Callable[[], object]:
    """A product by ONNX Runtime, whose right side is a weight."""
    import onnxruntime

    given = ir.Value(name="left", type=ir.TensorType(ir.DataType.from_numpy(left.dtype)), shape=ir.Shape(left.shape))
    weight = ir.Value(name="right", const_value=ir.Tensor(right))
    node = ir.Node("", operator, [given, weight])
    made = node.outputs[0]
    made.name, made.type = "made", ir.TensorType(ir.DataType.from_numpy(result))
    made.shape = ir.Shape((len(left), right.shape[1]))
    graph = ir.Graph([given], [made], nodes=[node], initializers=[weight], opset_imports={"": 21}, name=operator)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"left": left})


def _least_seconds(run: Callable[[], object]) -> float:
    def timed() -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    return min(timed() for _ in range(_REPEATS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a request needs.

    Attributes:
        arithmetic: what is multiplied.
        encoder_bytes: of weights that the encoder reads.
        step_bytes: of weights that a step reads.
        encoder_operations: for each token of the encoder.
        step_operations: for each row of a step.
    """

    arithmetic: Arithmetic
    encoder_bytes: float
    step_bytes: float
    encoder_operations: float
    step_operations: float

    def least_seconds(self, case: Case, machine: Speeds) -> float:
        """One run of the encoder, and one of the decoder for every new token."""
        encoding = self._run(self.encoder_bytes, case.batch * case.source * self.encoder_operations, machine)
        step = self._run(self.step_bytes, case.batch * case.beams * self.step_operations, machine)
        return encoding + case.new_tokens * step

    def _run(self, size: float, operations: float, machine: Speeds) -> float:
        return max(size / machine.reading(size), operations / machine.operations_a_second[self.arithmetic])


def float_demand(
    architecture: Architecture, routing: Mapping[str, float], arithmetic: Arithmetic, bytes_each: int, *, cross: bool
) -> Demand:
    """Of weights that all have one size.

    Args:
        architecture: sizes.
        routing: `encoder_experts_hit` and `decoder_experts_hit`, how many experts one run of a sparse layer reads;
            absent where no layer is sparse.
        arithmetic: what is multiplied.
        bytes_each: of a weight.
        cross: whether the encoder's run makes the keys and values of cross-attention.
    """

    def weights(stack: str, experts: float) -> float:
        return _weights_of(architecture, stack, experts, cross=cross)

    return Demand(
        arithmetic=arithmetic,
        encoder_bytes=bytes_each * weights("encoder", _experts_hit("encoder", routing)),
        step_bytes=bytes_each * weights("decoder", _experts_hit("decoder", routing)),
        encoder_operations=_MULTIPLY_AND_ADD * weights("encoder", 1.0),
        step_operations=_MULTIPLY_AND_ADD * weights("decoder", 1.0),
    )


def quantized_demand(bundle: Path, variant: str, architecture: Architecture, routing: Mapping[str, float]) -> Demand:
    """Of a quantized variant: bytes as its graphs say, integer arithmetic; arguments as those of `float_demand`."""
    dense = float_demand(architecture, routing, "int8", 1, cross=True)
    return dataclasses.replace(
        dense,
        encoder_bytes=bytes_read(bundle, variant, "encoder", _experts_hit("encoder", routing)),
        step_bytes=bytes_read(bundle, variant, "decoder", _experts_hit("decoder", routing)),
    )


def request_bytes(architecture: Architecture, case: Case, routing: Mapping[str, float]) -> float:
    """Bytes of float32 weights that a request reads: the encoder's once, the decoder's for every new token.

    Arguments are those of `float_demand`.
    """
    demand = float_demand(architecture, routing, "float32", _FLOAT32, cross=True)
    return demand.encoder_bytes + case.new_tokens * demand.step_bytes


def _experts_hit(stack: str, routing: Mapping[str, float]) -> float:
    return routing.get(f"{stack}_experts_hit", 0.0)


def _weights_of(architecture: Architecture, stack: str, experts: float, *, cross: bool) -> float:
    """Of one run that uses so many experts of a sparse layer.

    Cross-attention's keys and values are the encoder's; of the embedding only the decoder reads all.
    """
    total = 0.0
    for name, shape in expected_tensors(architecture).items():
        size = math.prod(shape)
        if name in (names.EMBEDDING, names.HEAD):
            is_head = name == names.HEAD or architecture.tied_head
            total += size * (stack == "decoder" and is_head)
        elif name.endswith(tuple(f"{names.CROSS_ATTENTION}.{projection}.weight" for projection in "kv")):
            total += size * (stack == "encoder" and cross)
        elif name.startswith(stack):
            total += size * (experts / architecture.num_experts if names.experts_layer(name) else 1.0)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast memory is read and matrices are multiplied.")
    parser.add_argument("--threads", type=int, default=2)
    print(json.dumps(speeds(parser.parse_args().threads).to_json()))


if __name__ == "__main__":
    main()
