"""Forms of the network, each at one precision."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from pointsman.bundle import names
from pointsman.bundle.files import FileRecord
from pointsman.bundle.interface import Graph, Role
from pointsman.bundle.quantization import Quantization

Form = Literal["portable", "fused"]
Precision = Literal["float32", "bfloat16", "float16", "int8", "int4", "int8-qdq"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far a written graph is from the torch modules, measured block by block when it was written.

    Attributes:
        reference: what it was compared with.
        max_error: the largest absolute error of any block's output, relative to that output's largest magnitude.
        worst: the value where it was found.
        tolerance: what it had to stay below.
        expert_agreement: share of tokens for which graph and reference chose the same expert.
    """

    reference: str
    max_error: float
    worst: str
    tolerance: float
    expert_agreement: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One form of the network at one precision.

    Attributes:
        form: `portable` (standard ONNX, static shapes) or `fused` (one branch per expert, for ONNX Runtime).
        precision: of weights; also the dtype of matrix products and caches, except that quantized variants
            keep caches in float32.
        capacity: tokens that an expert accepts from one sequence; null for no limit.
        encoder: ids and mask to cross-attention keys and values.
        decoder: one step over a cache, of any number of positions.
        step: the same for one position, of fewer nodes and none that computes shapes: for engines that record it, and
            for plans; null in the fused form.
        files: what the variant consists of; variants of one precision share their weights.
        parity: measured when it was written; of a quantized variant, that of the float variant it comes from.
        quantization: how it was quantized; null for float variants.
    """

    form: Form
    precision: Precision
    capacity: int | None
    encoder: Graph
    decoder: Graph
    files: tuple[FileRecord, ...]
    parity: Parity
    quantization: Quantization | None = None
    step: Graph | None = None

    def graph(self, role: Role) -> Graph:
        """The encoder's graph or the decoder step's, of any number of positions."""
        return self.encoder if role == "encoder" else self.decoder

    def graph_of_one_position(self, role: Role) -> Graph:
        """What plans are built from and GPUs run: the encoder's graph, or the decoder step's for one position."""
        return self.encoder if role == "encoder" else self.step or self.decoder

    def sources(self, role: Role) -> tuple[FileRecord, ...]:
        """What a plan is built from: its graph's file first, then the weights."""
        own = [record for record in self.files if record.path == self.graph_of_one_position(role).file]
        return (*own, *(record for record in self.files if PurePosixPath(record.path).name == names.WEIGHTS))
