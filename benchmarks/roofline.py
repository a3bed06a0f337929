"""The time that reading a request's weights from memory takes: no engine can decode faster (Williams et al. 2009).

Decoding a few rows is bound by memory: a step reads every weight that it needs once, and computes little with it.
Run as a script it prints the bytes a second that this machine reads, with `--threads` threads.
"""

import argparse
import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cases import Case
from pointsman.manifest import Architecture
from pointsman_export.architecture import expected_tensors

_BYTES = 1 << 30  # more than a cache holds
_REPEATS = 5
_FLOAT32 = 4


def bandwidth(threads: int) -> float:
    """Bytes a second that this machine reads from memory, the best of a few tries."""
    parts = np.array_split(np.ones(_BYTES // _FLOAT32, np.float32), threads)
    with ThreadPoolExecutor(threads) as pool:
        return max(_read_once(parts, pool) for _ in range(_REPEATS))


def _read_once(parts: list[np.ndarray], pool: ThreadPoolExecutor) -> float:
    began = time.perf_counter()
    list(pool.map(np.max, parts))
    return _BYTES / (time.perf_counter() - began)


def request_bytes(architecture: Architecture, case: Case, routing: Mapping[str, float]) -> float:
    """Bytes of float32 weights that a request reads: the encoder's once, the decoder's for every new token.

    Args:
        architecture: sizes.
        case: the request.
        routing: `encoder_experts_hit` and `decoder_experts_hit`, how many experts one run of a sparse layer reads;
            absent where no layer is sparse.
    """
    encoder = _stack_bytes(architecture, "encoder", routing.get("encoder_experts_hit", 0.0))
    decoder = _stack_bytes(architecture, "decoder", routing.get("decoder_experts_hit", 0.0))
    return encoder + case.new_tokens * decoder


def _stack_bytes(architecture: Architecture, stack: str, experts_hit: float) -> float:
    """Of one run. Cross-attention's keys and values are the encoder's; of the embedding only the decoder reads all."""
    total = 0.0
    for name, shape in expected_tensors(architecture).items():
        size = math.prod(shape) * _FLOAT32
        if name in ("shared.weight", "lm_head.weight"):
            is_head = name == "lm_head.weight" or architecture.tied_head
            total += size * (stack == "decoder" and is_head)
        elif ".EncDecAttention.k." in name or ".EncDecAttention.v." in name:
            total += size * (stack == "encoder")
        elif name.startswith(stack):
            total += size * (experts_hit / architecture.num_experts if ".experts." in name else 1.0)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast memory is read.")
    parser.add_argument("--threads", type=int, default=2)
    print(bandwidth(parser.parse_args().threads))


if __name__ == "__main__":
    main()
