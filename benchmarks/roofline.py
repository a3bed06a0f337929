"""The least time that a request can take on a machine, whatever the engine (Williams et al. 2009, "Roofline").

Each run of a graph takes at least as long as reading the weights that it needs, and at least as long as multiplying
with them. Decoding a few rows is bound by reading, encoding a long input by arithmetic.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cases import Case
from pointsman.bundle import Architecture, names
from pointsman_export.architecture import expected_tensors
from reading import bytes_read
from speeds import Arithmetic, Speeds

_FLOAT32 = 4
_MULTIPLY_AND_ADD = 2


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
