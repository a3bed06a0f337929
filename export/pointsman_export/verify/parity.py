"""Parity of written graphs with the torch modules, block by block, so that no step holds the model.

Each block of a graph is cut out of the written file, fed what the reference feeds its own block, and compared on
everything that it hands on. Errors are relative to the largest magnitude of the value that they are in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from pointsman.bundle import Parity
from pointsman.errors import CheckpointError, ParityError
from pointsman_export.graphs.weights import WIDER, TensorReader
from pointsman_export.network import Build
from pointsman_export.verify.reference import BlockResult, Reference

TOLERANCES = {"float32": 1e-4, "bfloat16": 1e-4, "float16": 2e-2}
LEAST_AGREEMENT = 0.98
SOURCE, ROWS_PER_INPUT, POSITIONS, PAST = 24, 2, 3, 4

Array = NDArray[np.generic]


@dataclass
class Measured:
    """The worst seen so far.

    Attributes:
        error: relative to the value's largest magnitude.
        worst: name of the value.
        agreeing: tokens whose expert was the reference's.
        routed: tokens that were routed at all.
    """

    error: float = 0.0
    worst: str = ""
    agreeing: int = 0
    routed: int = 0

    def compare(self, name: str, got: Array, wanted: Tensor, same: NDArray[np.bool_] | None = None) -> None:
        """Take a value into account; `same` marks [rows, tokens] whose experts agree, where that matters."""
        expected = wanted.numpy()
        if not np.isfinite(expected).all():
            raise CheckpointError(
                f"{name} is past float32's range already when the checkpoint itself is run; "
                "use one with smaller weights"
            )
        difference = np.abs(got.astype(np.float32) - expected)
        if same is not None:
            difference = difference[same]
        error = float(difference.max(initial=0.0) / max(float(np.abs(expected).max()), 1e-30))
        if not np.isfinite(got.astype(np.float32)).all():
            error = float("inf")
        if error >= self.error:
            self.error, self.worst = error, name

    def route(self, got: Array, wanted: Tensor) -> NDArray[np.bool_]:
        """Count agreement; return where experts agree."""
        same: NDArray[np.bool_] = got == wanted.numpy()
        self.agreeing += int(same.sum())
        self.routed += same.size
        return same


@dataclass(frozen=True)
class Sample:
    """What graphs and reference are fed."""

    input_ids: Tensor
    attention_mask: Tensor
    decoder_ids: Tensor
    beam_rows: Tensor
    past: list[tuple[Tensor, Tensor]]
    cross: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def draw(cls, build: Build) -> "Sample":
        """Two inputs, one shorter; two beams each, swapped; a few positions after a past of random keys and values."""
        architecture, generator = build.architecture, torch.Generator().manual_seed(0)
        rows = 2 * ROWS_PER_INPUT

        def ids(*shape: int) -> Tensor:
            return torch.randint(
                min(3, architecture.vocab_size - 1), architecture.vocab_size, shape, generator=generator
            )

        mask = torch.ones(2, SOURCE, dtype=torch.int64)
        mask[1, SOURCE * 2 // 3 :] = 0
        shape = (rows, architecture.num_heads, PAST, architecture.d_kv)
        dtype = build.precision.compute
        past = [
            tuple(torch.randn(shape, generator=generator).to(dtype).float() for _ in range(2))
            for _ in range(architecture.decoder.layers)
        ]
        padded = torch.where(mask == 1, ids(2, SOURCE), architecture.pad_token_id)
        return cls(padded, mask, ids(rows, POSITIONS), torch.tensor([1, 0, 3, 2]), past)  # type: ignore[arg-type]


def verify(
    build: Build, encoder: Path, decoder: Path, checkpoint: TensorReader, *, progress: Callable[[str], object]
) -> Parity:
    """Compare both graphs of a variant with the reference.

    Args:
        build: of the variant.
        encoder: the written graph; its external data lies beside it.
        decoder: likewise.
        checkpoint: what it was written from, read under canonical names.
        progress: called with the name of each piece before it is compared.

    Raises:
        CheckpointError: the checkpoint's own values overflow.
        ParityError: naming the worst value, its error and the tolerance.
    """
    sample, measured = Sample.draw(build), Measured()
    reference = Reference(build, checkpoint)
    with torch.inference_mode():
        _verify_encoder(Pieces(encoder, build), sample, reference, measured, progress)
        _verify_decoder(Pieces(decoder, build), sample, reference, measured, progress)
    agreement = measured.agreeing / measured.routed if measured.routed else 1.0
    tolerance = TOLERANCES[build.precision.name]
    if measured.error == np.inf and build.precision.name in WIDER:
        raise ParityError(
            f"{measured.worst} is past {build.precision.name}'s range in the exported {build.form} graphs; "
            f"nothing was written, export with --dtype {WIDER[build.precision.name]}"
        )
    if not measured.error <= tolerance or agreement < LEAST_AGREEMENT:
        raise ParityError(
            f"the exported {build.form} {build.precision.name} graphs do not compute what the checkpoint does: "
            f"{measured.worst} is off by {measured.error:.2g} (tolerance {tolerance:g}), experts agree on "
            f"{agreement:.1%} of tokens; nothing was written, please report this"
        )
    return Parity(
        reference=f"torch {torch.__version__} modules in float32, block by block",
        max_error=measured.error,
        worst=measured.worst,
        tolerance=tolerance,
        expert_agreement=agreement,
    )


def _verify_encoder(
    pieces: "Pieces", sample: Sample, reference: Reference, measured: Measured, progress: Callable[[str], object]
) -> None:
    feeds = {"input_ids": sample.input_ids, "attention_mask": sample.attention_mask}
    previous: dict[str, Tensor] = {}
    for index, result in enumerate(reference.encode(sample.input_ids, sample.attention_mask)):
        name = f"encoder.block.{index}"
        progress(name)
        _compare_block(pieces, name, [name], [result.hidden], feeds | previous, result, measured)
        previous = {name: result.hidden}
    for index, pair in enumerate(reference.cross(next(iter(previous.values())))):
        names = [f"cross_key.{index}", f"cross_value.{index}"]
        progress(names[0])
        for name, got, wanted in zip(names, pieces.run(names, feeds | previous), pair, strict=True):
            measured.compare(name, got, wanted)
        sample.cross.append(pair)


def _verify_decoder(
    pieces: "Pieces", sample: Sample, reference: Reference, measured: Measured, progress: Callable[[str], object]
) -> None:
    shared = {
        "input_ids": sample.decoder_ids,
        "attention_mask": sample.attention_mask,
        "beam_rows": sample.beam_rows,
        **_numbered("past", sample.past),
        **_numbered("cross", sample.cross),
    }
    reordered = [(key[sample.beam_rows], value[sample.beam_rows]) for key, value in sample.past]
    previous: dict[str, Tensor] = {}
    results = reference.decode(sample.decoder_ids, sample.attention_mask, sample.cross, reordered)
    for index, result in enumerate(results):
        name = f"decoder.block.{index}"
        progress(name)
        names = [name, f"present_key.{index}", f"present_value.{index}"]
        feeds = shared | previous
        _compare_block(pieces, name, names, [result.hidden, result.key, result.value], feeds, result, measured)
        previous = {name: result.hidden}
    progress("logits")
    (got,) = pieces.run(["logits"], shared | previous)
    measured.compare("logits", got, reference.logits(next(iter(previous.values()))))


def _numbered(prefix: str, layers: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    return {
        f"{prefix}_{kind}.{index}": tensor
        for index, pair in enumerate(layers)
        for kind, tensor in zip(("key", "value"), pair, strict=True)
    }


def _compare_block(
    pieces: "Pieces",
    name: str,
    outputs: list[str],
    wanted: Sequence[Tensor],
    feeds: Mapping[str, Tensor],
    result: BlockResult,
    measured: Measured,
) -> None:
    """Compare a block's outputs, the residual stream first; where experts differ, only the difference is counted."""
    routers = [] if result.expert is None else [pieces.router_choice(name)]
    got = pieces.run([*outputs, *routers], feeds)
    same = None if result.expert is None else measured.route(got[-1], result.expert)
    measured.compare(outputs[0], got[0], wanted[0], same)
    for output, value, expected in zip(outputs[1:], got[1:], wanted[1:], strict=False):
        measured.compare(output, value, expected)


class Pieces:
    """A written graph, run in pieces on the CPU.

    The CPU engine has no bfloat16: such pieces are widened to float32, weights keep their rounding.
    """

    def __init__(self, path: Path, build: Build) -> None:
        self.folder, self.build = path.parent, build
        self.model = ir.load(path)
        graph = self.model.graph
        self.values = {value.name: value for node in graph for value in node.outputs}
        self.values |= {value.name: value for value in graph.inputs}

    def router_choice(self, block: str) -> str:
        """Name of the value that holds the experts chosen in a block."""
        prefix = "/" + block.replace(".block", "/block") + "/"
        found = [node for node in self.model.graph if node.op_type == "ArgMax" and (node.name or "").startswith(prefix)]
        return str(found[0].outputs[0].name)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Tensor]) -> list[Array]:
        """Run the part of the graph between these values."""
        graph = ir.convenience.extract(
            self.model.graph, [self.values[n] for n in feeds], [self.values[n] for n in outputs]
        )
        piece = ir.Model(graph, ir_version=self.model.ir_version)
        piece.opset_imports.update(self.model.opset_imports)
        if self.build.precision.name == "bfloat16":
            _widen(piece)
        session = self._session(piece)
        wanted = {argument.name: argument.type for argument in session.get_inputs()}
        arrays = {name: _fed(value, wanted[name]) for name, value in feeds.items() if name in wanted}
        results: list[Array] = session.run(list(outputs), arrays)
        return results

    def _session(self, piece: ir.Model) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Weights stay in the mapped file: only the experts that are hit are read.
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self.folder))
        return onnxruntime.InferenceSession(
            ir.to_proto(piece).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


def _fed(value: Tensor, element_type: str) -> Array:
    array: Array = value.numpy()
    return array.astype(np.float16) if element_type == "tensor(float16)" else array


NARROW, WIDE = ir.DataType.BFLOAT16, ir.DataType.FLOAT


def _widen(model: ir.Model) -> None:
    """Make a bfloat16 graph compute in float32."""
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    for node in nodes:
        _widen_attributes(node)
        _widen_weights(node)
    for value in [*model.graph.inputs, *(value for node in nodes for value in node.outputs)]:
        if value.dtype == NARROW:
            value.dtype = WIDE
    for constant in model.graph.initializers.values():
        data = constant.const_value
        if data is not None and data.dtype == NARROW and not isinstance(data, ir.ExternalTensor):
            constant.const_value, constant.dtype = _widened(data, constant.name), WIDE


def _widen_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == NARROW:
            node.attributes[name] = ir.AttrTensor(name, _widened(attribute.as_tensor(), None))
        elif node.op_type == "Cast" and name == "to" and attribute.as_int() == NARROW:
            node.attributes[name] = ir.AttrInt64(name, WIDE)


def _widen_weights(node: ir.Node) -> None:
    """Cast weights beside each use, so that inside branches only the experts that are hit are read."""
    for index, weight in enumerate(node.inputs):
        if weight is not None and isinstance(weight.const_value, ir.ExternalTensor) and weight.dtype == NARROW:
            cast = ir.node("Cast", [weight], {"to": WIDE})
            cast.outputs[0].name = f"{node.name}:widened_{index}"
            node.graph.insert_before(node, cast)  # type: ignore[union-attr]
            node.replace_input_with(index, cast.outputs[0])


def _widened(tensor: ir.TensorProtocol, name: str | None) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(np.float32), name=name)
