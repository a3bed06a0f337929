"""A graph in pieces, cut where nothing passes but the residual stream, each loaded into ONNX Runtime by itself."""

import bisect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from pointsman.backends.onnxruntime.session import PROVIDERS, Device, load_cuda, require_device, why_not_cuda
from pointsman.backends.onnxruntime.weights.saturation import FLOATS_STAY, make_exact
from pointsman.errors import BundleError, DeviceError
from pointsman.processors import restricted
from pointsman_calib.graphs.on_cuda import suit_cuda
from pointsman_calib.graphs.scan import gather_by_token

Array = NDArray[Any]
Values = Mapping[str, Array]

_PROVIDER_OPTIONS: Final[Mapping[Device, dict[str, str]]] = {
    "cpu": {},
    "cuda": {"use_tf32": "0"},  # float32 is float32: TF32 would keep 10 bits of it
}
# Codes of weights would be made floats on the CPU before they go to the GPU, in four times the bytes.
_LEFT_OUT: Final[Mapping[Device, list[str]]] = {"cpu": [], "cuda": ["ConstantFolding"]}
_NORM: Final = "RMSNormalization"  # every sublayer begins with one, and so do the head and the cross-attention


class GraphPieces:
    """A graph and where it is cut: before its final norm, and between sublayers so that pieces keep to a size.

    Attributes:
        graph: the whole; its weights stay on disk.
        streams: names of the values at which it is cut, in order: the last of each piece but the last piece.
    """

    def __init__(
        self,
        path: Path,
        most_bytes: int,
        streams: Sequence[str] | None = None,
        device: Device = "cpu",
        threads: int | None = None,
    ) -> None:
        """Read a graph.

        Args:
            path: the file; its weights lie beside it.
            most_bytes: of a piece's weights, unless a sublayer has more.
            streams: where to cut whatever pieces weigh, in order; the last is what the final norm reads.
            device: where pieces run.
            threads: of the CPU; one for each core that the process may use where None.

        Raises:
            BundleError: a value at which to cut is not in the graph.
        """
        self._path, self._model, self._device, self._threads = path, ir.load(path), device, threads
        self.graph = self._model.graph
        gather_by_token(self.graph)
        if device == "cuda":
            suit_cuda(self.graph)
        self._norms = list(dict.fromkeys(str(_first(node).name) for node in self.graph if node.op_type == _NORM))
        self._depths = _depths(self.graph, self._norms, {})
        if streams is None:
            self._cuts = _cuts(_weight_bytes(self.graph, self._depths, len(self._norms) + 1), most_bytes)
        else:
            self._cuts = [self._norms.index(self._computed(name, self._norms)) for name in streams]
        self.streams = [self._norms[cut] for cut in self._cuts]

    def __len__(self) -> int:
        return len(self.streams) + 1

    def piece_of(self, value: str) -> int:
        """Number of the piece that computes a value.

        Raises:
            BundleError: none does.
        """
        return bisect.bisect_left(self._cuts, self._depths[self._computed(value, self._depths)])

    def _computed(self, value: str, among: Collection[str]) -> str:
        if value not in among:
            raise BundleError(f"{self._path} does not compute {value}; export the bundle again")
        return value

    def append(self, nodes: Sequence[ir.Node]) -> None:
        """Add nodes that compute more of values that are there; their outputs have names."""
        self.graph.extend(nodes)
        self._depths = _depths(nodes, self._norms, self._depths)

    def around(self, number: int) -> tuple[list[str], list[str]]:
        """The stream before a piece, if it is not the first, and the one after it, if it is not the last."""
        return self.streams[max(number - 1, 0) : number], self.streams[number : number + 1]

    def load(self, number: int, outputs: Sequence[str]) -> "Piece":
        """Load a piece, or as much of it as these values of it need."""
        inputs = [*(str(value.name) for value in self.graph.inputs), *self.around(number)[0]]
        return self._loaded(ir.convenience.extract(self.graph, inputs, outputs))

    def load_inner(self, wo: str) -> "Piece":
        """Load what an expert's branch makes of its rows, [rows, d_model], for its output projection to multiply.

        Args:
            wo: name of the projection's weight.
        """
        (product,) = self.graph.initializers[wo].consumers()
        branch = product.graph
        assert isinstance(branch, ir.Graph)
        rows = next(_first(node) for node in branch if node.op_type == product.op_type)
        inner = ir.convenience.extract(branch, [rows], [_first(product)])
        for value in (*inner.inputs, *inner.outputs):
            value.type = ir.TensorType(ir.DataType.FLOAT)  # which graphs need say of branches' inside nowhere
        return self._loaded(inner)

    def _loaded(self, graph: ir.Graph) -> "Piece":
        piece = ir.Model(graph, ir_version=self._model.ir_version)
        piece.opset_imports.update(self._model.opset_imports)
        for value in [value for value in graph.inputs if not value.uses()]:
            graph.inputs.remove(value)
        return Piece(piece, self._path, self._device, self._threads)


class Piece:
    """A part of a graph on ONNX Runtime.

    ONNX Runtime keeps no memory between runs (no arena, no plan for each shape), so what a run takes does not depend on
    how many there were. Weights are packed as in serving: kernels that round activations take packed weights only.

    Attributes:
        inputs: names of the values that it reads.
        outputs: names of the values that it hands out.
    """

    def __init__(self, model: ir.Model, path: Path, device: Device = "cpu", threads: int | None = None) -> None:
        """Load it.

        Args:
            model: the part; its outputs are what it hands out.
            path: of the whole graph, beside which the weights lie.
            device: where it runs.
            threads: of the CPU; one for each core that the process may use where None.

        Raises:
            BundleError: ONNX Runtime refuses it.
            DeviceError: the device cannot be used.
        """
        self._session = _session(ir.to_proto(model).SerializeToString(), path, device, threads)
        self.inputs, self.outputs = (
            [str(value.name) for value in values] for values in (model.graph.inputs, model.graph.outputs)
        )

    def run(self, feeds: Values) -> dict[str, Array]:
        """Its outputs by name; `feeds` may hold more than its inputs."""
        found = self._session.run(self.outputs, {name: feeds[name] for name in self.inputs})
        return dict(zip(self.outputs, found, strict=True))


def open_device(device: Device) -> None:
    """Check that graphs can run on a device, and load what it needs, before anything long is done.

    Raises:
        DeviceError: they cannot.
    """
    if device == "cuda":
        if (missing := why_not_cuda()) is not None:
            raise DeviceError(missing)
        load_cuda()


def whole_session(path: Path) -> onnxruntime.InferenceSession:
    """A graph's file, loaded whole.

    The engine's warnings are left out: it has one for every cache that it copies, and here none is bound in place.
    """
    options = _options(None, "cpu")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _session(model: bytes, path: Path, device: Device, threads: int | None) -> onnxruntime.InferenceSession:
    options = _options(threads, device)
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    try:
        session = onnxruntime.InferenceSession(
            model,
            options,
            providers=[(PROVIDERS[device], _PROVIDER_OPTIONS[device])],
            disabled_optimizers=_LEFT_OUT[device],
        )
    except Exception as error:
        raise BundleError(f"ONNX Runtime refuses {path.name}: {str(error).splitlines()[0]}") from error
    require_device(session, device)
    return session


def _options(threads: int | None, device: Device) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or restricted() or 0  # 0: the engine chooses
    if device == "cpu":
        make_exact(options)
    else:
        options.add_session_config_entry(FLOATS_STAY, "1")  # no integers are multiplied there
    return options


def _depths(nodes: Iterable[ir.Node], norms: Iterable[str], known: Mapping[str, int]) -> dict[str, int]:
    """For each value that nodes compute, and those known before, how many norms' inputs it comes after."""
    inputs, depths = set(norms), dict(known)
    for node in nodes:
        names = [str(value.name) for value in _reads(node)]
        depth = max((depths.get(name, 0) + (name in inputs) for name in names), default=0)
        depths |= {str(value.name): depth for value in node.outputs}
    return depths


def _weight_bytes(graph: ir.Graph, depths: Mapping[str, int], count: int) -> list[int]:
    """Bytes in external data that the nodes of each depth read."""
    weights: list[dict[str, int]] = [{} for _ in range(count)]
    for node in graph:
        read = {str(value.name): value.const_value for value in _reads(node)}
        sizes = {name: tensor.nbytes for name, tensor in read.items() if isinstance(tensor, ir.ExternalTensor)}
        weights[depths[str(node.outputs[0].name)]] |= sizes
    return [sum(sizes.values()) for sizes in weights]


def _cuts(sizes: Sequence[int], most_bytes: int) -> list[int]:
    """The depths after which to cut: the last but one, and those that keep what is between cuts to a size."""
    cuts, held = [], sizes[0]
    for depth, size in enumerate(sizes[1:]):
        if held + size > most_bytes or depth == len(sizes) - 2:
            cuts.append(depth)
            held = 0
        held += size
    return cuts


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, its branches included."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in ir.traversal.RecursiveGraphIterator(attribute.as_graph()):
                yield from (value for value in inner.inputs if value is not None)


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value
