"""A variant's graphs on CUDA: run at addresses of the device, on one stream, and replayed as CUDA graphs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import onnxruntime

from pointsman.backends.gpu.backend import GpuBackend
from pointsman.backends.gpu.cuda import CudaDevice
from pointsman.backends.gpu.device import CaptureError
from pointsman.backends.gpu.device import Device as Gpu
from pointsman.backends.gpu.replays import Replays
from pointsman.backends.onnxruntime.models.device_operators import with_device_operators
from pointsman.backends.onnxruntime.models.graphs import BFLOAT16
from pointsman.backends.onnxruntime.session import ELEMENT_TYPES, Device, ProviderOptions, load_cuda, run, session
from pointsman.backends.onnxruntime.weights.derived import derived_values
from pointsman.bundle import ROLES, Graph, Role, Variant, names
from pointsman.errors import DeviceError

_NOT_RECORDED: Final = "-1"  # for `gpu_graph_id`
_SOURCE_STEP, _LONG_SOURCE_STEP = 32, 128  # tokens
_LEAST_CAPACITY: Final = 64  # tokens
_BATCH_STEP: Final = 8  # inputs
_MOST_RECORDED: Final = 64


class BucketedShapes:
    """Few shapes, so that most runs find theirs recorded; see `Shapes` and `SharedShapes`."""

    def of(self, batch: int, source: int, width: int, room: int) -> dict[str, int]:
        """See `Shapes.of`."""
        inputs = self.slots(batch)
        return {
            names.BATCH: inputs,
            names.SOURCE: self.source(source),
            names.ROWS: inputs * width,
            names.POSITIONS: 1,  # as far as the graph takes more
            names.WIDTH: width,
            names.CAPACITY: self.capacity(room),
        }

    def slots(self, needed: int) -> int:
        """See `SharedShapes.slots`: small numbers are powers of two."""
        return _power_of_two(needed) if needed < _BATCH_STEP else _multiple(needed, _BATCH_STEP)

    def source(self, tokens: int) -> int:
        """See `SharedShapes.source`."""
        return _multiple(tokens, _SOURCE_STEP if tokens <= _LONG_SOURCE_STEP else _LONG_SOURCE_STEP)

    def width(self, rows: int) -> int:
        """See `SharedShapes.width`."""
        return _power_of_two(rows)

    def capacity(self, tokens: int) -> int:
        """See `SharedShapes.capacity`."""
        return max(_power_of_two(tokens), _LEAST_CAPACITY)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _multiple(least: int, of: int) -> int:
    return -(-least // of) * of


class RecordedGraph:
    """A graph loaded on a device; see `DeviceGraph`. One thread at a time may use it.

    Its runs are recorded here, and not by the engine (`enable_cuda_graph`), which waits for the device whenever it
    replays one: so the host would stand still while a step is computed, and the device while the host has the best
    tokens selected.

    Attributes:
        replays: what was recorded of its runs.
    """

    def __init__(self, graph: Graph, loaded: Any, where: Device, gpu: Gpu) -> None:  # noqa: ANN401 - untyped engine
        """Take a session.

        Args:
            graph: its interface.
            loaded: the session, whose stream is the GPU's.
            where: its inputs and outputs lie.
            gpu: on which it runs.
        """
        self.replays = Replays(most=_MOST_RECORDED)
        self._specs, self._session, self._where, self._gpu = graph, loaded, where, gpu
        self._options = _run_options()

    def run(self, sizes: Mapping[str, int], addresses: Sequence[int]) -> None:
        """Enqueue one run; see `DeviceGraph.run`."""

        def do() -> None:
            run(self._session, self._bound(sizes, addresses), self._where, self._options)

        self.replays.run((tuple(sizes.values()), tuple(addresses)), do, lambda: self._recorded(do))

    def _recorded(self, do: Callable[[], None]) -> Callable[[], None]:
        """What a run enqueues: the engine's memory is there, since the run was done before."""
        try:
            return self._gpu.capture(do)
        except (CaptureError, DeviceError):
            raise
        except Exception as error:
            raise CaptureError(str(error)) from error

    def _bound(self, sizes: Mapping[str, int], addresses: Sequence[int]) -> Any:  # noqa: ANN401 - untyped engine
        binding = self._session.io_binding()
        inputs, outputs = self._specs.inputs, self._specs.outputs
        binds = (binding.bind_input,) * len(inputs) + (binding.bind_output,) * len(outputs)
        for bind, spec, address in zip(binds, (*inputs, *outputs), addresses, strict=True):
            bind(spec.name, self._where, 0, ELEMENT_TYPES[spec.dtype], spec.shape(sizes), address)
        return binding


def _run_options() -> Any:  # noqa: ANN401 - untyped engine
    """Of a run that is enqueued, and neither recorded by the engine nor waited for."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", _NOT_RECORDED)
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


class DeviceModel(NamedTuple):
    """A graph as a GPU runs it.

    Attributes:
        graph: its interface.
        path: its file.
        model: what is loaded in place of the file's contents.
        weights: of the model, those that are in no file.
    """

    graph: Graph
    path: Path
    model: bytes
    weights: Mapping[str, Any]

    @classmethod
    def of(cls, bundle: Path, variant: Variant, role: Role, elements: int = BFLOAT16) -> "DeviceModel":
        """Read one.

        Args:
            bundle: its folder.
            variant: which.
            role: of its graphs.
            elements: the precision whose operators are exchanged, where nothing branches; see `with_device_operators`.
        """
        graph = variant.graph_of_one_position(role)
        path = bundle / graph.file
        model = path.read_bytes()
        if variant.form != "portable":
            return cls(graph, path, model, {})
        model, derived = with_device_operators(model, elements)
        return cls(graph, path, model, derived_values(bundle / names.weights_file(variant.precision), derived))


def open_on_cuda(bundle: Path, variant: Variant, *, gpu: Gpu | None = None) -> GpuBackend:
    """Load a variant on the first GPU.

    Args:
        bundle: its folder.
        variant: which.
        gpu: where; the first GPU where None.

    Raises:
        DeviceError: it cannot be used, or has too little memory.
        BundleError: the engine refuses a graph.
    """
    load_cuda()
    device = gpu or CudaDevice()
    options = {
        "user_compute_stream": str(device.stream),
        "use_tf32": "0",  # float32 is float32: TF32 would keep 10 bits of it
        # What a run needs of the host is then given back at once, and not by the stream, which would do so at each
        # replay. The fused form branches, and cannot be recorded.
        "enable_cuda_graph": str(int(variant.form == "portable")),
    }
    # One after the other, since each has weights in memory of the host while it is loaded.
    encoder, decoder = (_loaded(DeviceModel.of(bundle, variant, role), options, device) for role in ROLES)
    if variant.form != "portable":
        encoder.replays.refusal = decoder.replays.refusal = "the fused form branches"
    engine = f"onnxruntime {onnxruntime.__version__}"
    return GpuBackend(device, engine, variant, (encoder, decoder), BucketedShapes())


def _loaded(given: DeviceModel, options: ProviderOptions, gpu: Gpu) -> RecordedGraph:
    loaded = session(given.path, "cuda", None, options, model=given.model, weights=given.weights)
    return RecordedGraph(given.graph, loaded, "cuda", gpu)
