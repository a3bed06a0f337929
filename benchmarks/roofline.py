"""The least time that a request can take on a machine, whatever the engine (Williams et al. 2009, "Roofline").

Each run of a graph takes at least as long as reading the weights that it needs, and at least as long as multiplying
with them. Decoding a few rows is bound by reading, encoding a long input by arithmetic.
Run as a script it prints the `Speeds` of this machine, with `--threads` threads.
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from cases import Case
from pointsman.bundle import Architecture, names
from pointsman_export.architecture import expected_tensors

_BYTES = 1 << 30  # more than a cache holds
_WIDTH = 2048  # of square matrices, as wide as a product needs to be for full speed
_REPEATS = 5
_FLOAT32 = 4
_MULTIPLY_AND_ADD = 2


@dataclass(frozen=True, slots=True)
class Speeds:
    """What a machine can do.

    Attributes:
        bytes_a_second: read from memory.
        operations_a_second: multiplications and additions of a large float32 product by torch, which uses the
            processor's own library.
    """

    bytes_a_second: float
    operations_a_second: float

    def to_json(self) -> str:
        """For another process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Speeds":
        """From another process."""
        return cls(**json.loads(text))


def speeds(threads: int) -> Speeds:
    """Of this machine, the best of a few tries each."""
    parts = np.array_split(np.ones(_BYTES // _FLOAT32, np.float32), threads)
    with ThreadPoolExecutor(threads) as pool:
        reading = _least_seconds(lambda: list(pool.map(np.max, parts)))
    torch.set_num_threads(threads)
    square = torch.ones(_WIDTH, _WIDTH)
    multiplying = _least_seconds(lambda: square @ square)
    return Speeds(_BYTES / reading, _MULTIPLY_AND_ADD * _WIDTH**3 / multiplying)


def _least_seconds(run: Callable[[], object]) -> float:
    def timed() -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    return min(timed() for _ in range(_REPEATS))


def least_seconds(architecture: Architecture, case: Case, routing: Mapping[str, float], machine: Speeds) -> float:
    """What a float32 request takes at the least: one run of the encoder, and one of the decoder for every new token.

    Arguments are those of `request_bytes`.
    """

    def one_run(stack: str, tokens: int) -> float:
        reading = _FLOAT32 * _weights_of(architecture, stack, _experts_hit(stack, routing)) / machine.bytes_a_second
        operations = _MULTIPLY_AND_ADD * tokens * _weights_of(architecture, stack, experts=1.0)
        return max(reading, operations / machine.operations_a_second)

    encoding = one_run("encoder", case.batch * case.source)
    return encoding + case.new_tokens * one_run("decoder", case.batch * case.beams)


def request_bytes(architecture: Architecture, case: Case, routing: Mapping[str, float]) -> float:
    """Bytes of float32 weights that a request reads: the encoder's once, the decoder's for every new token.

    Args:
        architecture: sizes.
        case: the request.
        routing: `encoder_experts_hit` and `decoder_experts_hit`, how many experts one run of a sparse layer reads;
            absent where no layer is sparse.
    """
    encoder, decoder = (
        _weights_of(architecture, stack, _experts_hit(stack, routing)) for stack in ("encoder", "decoder")
    )
    return _FLOAT32 * (encoder + case.new_tokens * decoder)


def _experts_hit(stack: str, routing: Mapping[str, float]) -> float:
    return routing.get(f"{stack}_experts_hit", 0.0)


def _weights_of(architecture: Architecture, stack: str, experts: float) -> float:
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
            total += size * (stack == "encoder")
        elif name.startswith(stack):
            total += size * (experts / architecture.num_experts if names.experts_layer(name) else 1.0)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast memory is read and matrices are multiplied.")
    parser.add_argument("--threads", type=int, default=2)
    print(speeds(parser.parse_args().threads).to_json())


if __name__ == "__main__":
    main()
