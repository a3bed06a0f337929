"""A variant's two graphs as a `Backend`, and a request's steps."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pointsman.backends.cache_rows import CacheRows
from pointsman.backends.onnxruntime.caches import DeviceCache, HostCache
from pointsman.backends.onnxruntime.gathering import Gathering
from pointsman.backends.onnxruntime.host_rows import HostStepper
from pointsman.backends.onnxruntime.session import Device, load_cuda, run, session
from pointsman.backends.own_states import OwnStates
from pointsman.bundle import Variant, names, side_by_side


class OnnxRuntimeBackend:
    """A variant's two graphs as ONNX Runtime sessions.

    Attributes:
        engine: name and version.
        device: `cpu` or `cuda`.
    """

    def __init__(self, bundle: Path, variant: Variant, *, device: Device, threads: int | None) -> None:
        """Load the graphs.

        Raises:
            DeviceError: the device cannot be used.
            BundleError: the engine refuses a graph.
        """
        self.engine = f"onnxruntime {onnxruntime.__version__}"
        self.device: Device = device
        self.variant = variant
        if device == "cuda":
            load_cuda()
        graphs = variant.encoder, variant.decoder
        # Laying out weights for matrix products takes most of a load, on one core for each graph.
        with ThreadPoolExecutor(len(graphs)) as pool:
            sessions = pool.map(lambda graph: session(bundle / graph.file, device, threads), graphs)
            self.encoder, self.decoder = sessions
        self._gathering: Gathering | None = None
        if device == "cuda":
            (dtype,) = {spec.dtype for spec in variant.decoder.caches}
            self._gathering = Gathering(dtype, device)

    def new_cache(self, rows: int, room: int) -> HostCache | DeviceCache:
        """A cache without tokens; arguments are those of `encode`."""
        if self._gathering is None:
            return HostCache(self.variant.decoder, rows)
        return DeviceCache(self.variant.decoder, rows, room, self._gathering)

    def encode(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], *, rows: int, room: int
    ) -> "OnnxRuntimeState":
        """Run the encoder; see `Backend.encode`."""
        binding = self.encoder.io_binding()
        binding.bind_cpu_input(names.INPUT_IDS, np.ascontiguousarray(input_ids))
        binding.bind_cpu_input(names.ATTENTION_MASK, np.ascontiguousarray(attention_mask))
        for spec in self.variant.encoder.outputs:
            binding.bind_output(spec.name, self.device)
        run(self.encoder, binding, self.device)
        return OnnxRuntimeState(self, attention_mask, binding.get_outputs(), rows, room)

    def stepper(self) -> HostStepper | OwnStates:
        """What steps requests together; see `Backend.stepper`."""
        return HostStepper(self.encoder, self.decoder, self.variant) if self.device == "cpu" else OwnStates(self)


class OnnxRuntimeState:
    """A `DecodingState` whose tensors are bound once, and stay where they are from step to step."""

    def __init__(
        self, backend: OnnxRuntimeBackend, attention_mask: NDArray[np.int64], cross: list[Any], rows: int, room: int
    ) -> None:
        """Bind what stays the same in all steps.

        Args:
            backend: whose decoder is stepped.
            attention_mask: [batch, source].
            cross: the encoder's outputs, in the order of its specs.
            rows: decoder rows.
            room: tokens that will be fed to each, at most.
        """
        self._backend, decoder = backend, backend.variant.decoder
        self._binding = backend.decoder.io_binding()
        fixed = {names.ATTENTION_MASK: attention_mask, **side_by_side(len(attention_mask), rows)}
        # Kept, since values of the host are the arrays' own memory.
        self._fixed = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), backend.device)
            for name, array in fixed.items()
        }
        for name, value in self._fixed.items():
            self._binding.bind_ortvalue_input(name, value)
        for spec, value in zip(backend.variant.encoder.outputs, cross, strict=True):
            self._binding.bind_ortvalue_input(spec.name, value)
        self._cache = backend.new_cache(rows, room)
        self._cache.bind(self._binding)
        self._rows, self._length = CacheRows(rows), 0
        self._lengths = _Bound(np.zeros(rows, np.int64))
        self._vocabulary = int(decoder.outputs[0].axes[-1])
        self._place(rows, positions=1)

    def _place(self, rows: int, positions: int) -> None:
        """Have ids and logits of so many positions."""
        self._ids = _Bound(np.zeros((rows, positions), np.int64))
        self._logits = _Bound(np.empty((rows, positions, self._vocabulary), np.float32))
        self._binding.bind_ortvalue_output(names.LOGITS, self._logits.value)

    def step(self, token_ids: NDArray[np.int64], beam_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Feed tokens to every row; see `DecodingState.step`."""
        positions = token_ids.shape[1]
        if token_ids.shape != self._ids.array.shape:
            self._place(*token_ids.shape)
        moves = self._rows.follow(beam_rows, self._length)
        if self._cache.prepared(moves, self._length, positions):
            self._cache.bind(self._binding)
        self._ids.array[:] = self._rows.to_places(token_ids)
        self._lengths.array[:] = self._length
        # Each time: where the device is not the host, binding is what copies them to it.
        self._binding.bind_ortvalue_input(names.INPUT_IDS, self._ids.value)
        self._binding.bind_ortvalue_input(names.LENGTHS, self._lengths.value)
        run(self._backend.decoder, self._binding, self._backend.device)
        self._length += positions
        return self._rows.from_places(self._logits.array)


class _Bound:
    """An array of the host, and the engine's value that is the same memory."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array, self.value = array, onnxruntime.OrtValue.ortvalue_from_numpy(array)
