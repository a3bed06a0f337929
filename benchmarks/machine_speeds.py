"""How fast this machine reads and multiplies: the best that any library here reaches, so that no contestant is faster.

Run as a script it prints the `Speeds` of this machine, with `--threads` threads.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from speeds import Speeds

_WORKING_SETS = tuple(size << 20 for size in (32, 64, 128, 256, 1024))  # the last is more than a cache holds
_SHAPES = ((512, 768, 3072), (2048, 2048, 2048))  # an encoder's; one that is large enough for full speed
_REPEATS, _MOST_SECONDS = 5, 2.0
_HOPELESS = 4  # times as slow with one shape: it is not tried with a larger one
_FLOAT32 = 4
_MULTIPLY_AND_ADD = 2


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
    found, may_be_torch = [], True  # which has no product for every processor
    for rows, width, out in _SHAPES:
        left, right = np.ones((rows, width), np.uint8), np.ones((width, out), np.int8)
        seconds = [_least_seconds(_product("MatMulInteger", left, right, np.dtype(np.int32), threads))]
        if may_be_torch:
            theirs = partial(torch._int_mm, torch.from_numpy(left.view(np.int8)), torch.from_numpy(right))
            seconds.append(_least_seconds(theirs))
            may_be_torch = seconds[1] < _HOPELESS * seconds[0]
        found.append(_operations(rows, width, out) / min(seconds))
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
    """Of a few runs, or of fewer where a processor has no instructions for it and takes seconds."""
    taken: list[float] = []
    while len(taken) < _REPEATS and sum(taken) < _MOST_SECONDS:
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast memory is read and matrices are multiplied.")
    parser.add_argument("--threads", type=int, default=2)
    print(json.dumps(speeds(parser.parse_args().threads).to_json()))


if __name__ == "__main__":
    main()
