"""A variant's two graphs as a `Backend`, and a request's steps."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pointsman.backends.cache_rows import CacheRows
from pointsman.backends.onnxruntime.host.caches import HostCache
from pointsman.backends.onnxruntime.host.encoded_blocks import with_parts
from pointsman.backends.onnxruntime.host.host_rows import HostStepper
from pointsman.backends.onnxruntime.host.memory import Memory, most_spare
from pointsman.backends.onnxruntime.models.source_blocks import with_source_in_blocks
from pointsman.backends.onnxruntime.session import run, session
from pointsman.backends.onnxruntime.weights.huge_pages import huge_pages
from pointsman.backends.onnxruntime.weights.mapped_loading import loaded_once, with_experts_mapped
from pointsman.backends.onnxruntime.weights.residency import keep_trimmed
from pointsman.bundle import Graph, Variant, cache_positions, names, side_by_side


class OnnxRuntimeBackend:
    """A variant's two graphs as ONNX Runtime sessions on the CPU.

    Attributes:
        engine: name and version.
        device: `cpu`.
        most_positions: see `Backend`.
    """

    def __init__(
        self,
        bundle: Path,
        variant: Variant,
        *,
        threads: int | None,
        max_memory: int | None = None,
        shown: Sequence[Sequence[str]] = ((), ()),
    ) -> None:
        """Load the graphs.

        Args:
            bundle: its folder.
            variant: whose graphs.
            threads: CPU threads; one for each core that the process may use where None.
            max_memory: bytes of the process's resident memory that experts may fill; None loads them all.
            shown: int64 values inside the encoder, and inside the decoder, that shall be outputs too.

        Raises:
            BundleError: the engine refuses a graph, or the decoder is not one of our exporter's.
            DeviceError: memory does not suffice, or `max_memory` is not possible here.
        """
        self.engine, self.device = f"onnxruntime {onnxruntime.__version__}", "cpu"
        self.most_positions = None
        self.variant = variant
        weights = sum(file.bytes for file in variant.files)
        self._memory = Memory(most_spare(weights) if max_memory is None else 0)
        load = partial(_sessions, bundle, variant, threads=threads, shown=shown)
        if max_memory is None:
            # Floats have four times the bytes to move, and gain little.
            with huge_pages(weights) if variant.quantization else nullcontext():
                self.encoder, self.decoder = loaded_once(bundle, variant, load)
        else:
            self.encoder, self.decoder, mapped = with_experts_mapped(bundle, variant, load, max_memory)
            keep_trimmed(mapped, self, mapped_by=(self.encoder, self.decoder))

    def encode(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        *,
        rows: int,
        room: int,  # noqa: ARG002
    ) -> "OnnxRuntimeState":
        """Run the encoder; see `Backend.encode`."""
        binding = self.encoder.io_binding()
        binding.bind_cpu_input(names.INPUT_IDS, np.ascontiguousarray(input_ids))
        binding.bind_cpu_input(names.ATTENTION_MASK, np.ascontiguousarray(attention_mask))
        sizes = dict(zip((names.BATCH, names.SOURCE), input_ids.shape, strict=True))
        cross = self._memory.arrays(self.variant.encoder.outputs, sizes)
        for name, array in cross.by_name.items():
            binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        run(self.encoder, binding, "cpu")
        state = OnnxRuntimeState(self, attention_mask, cross.by_name, rows)
        weakref.finalize(state, self._memory.give_back, cross).atexit = False
        return state

    def stepper(self, *, shared: bool = True) -> HostStepper:  # noqa: ARG002 - the same for one
        """What steps requests together; see `Backend.stepper`."""
        return HostStepper(self.encoder, self.decoder, self.variant, self._memory)


def _sessions(
    bundle: Path,
    variant: Variant,
    *,
    threads: int | None,
    shown: Sequence[Sequence[str]],
    models: Sequence[bytes | None],
) -> Iterator[Any]:
    """Encoder, and a decoder whose source comes in blocks; `models` take the place of their files' contents."""
    graphs, exact = (variant.encoder, variant.decoder), variant.quantization is not None

    def loaded(graph: Graph, more: Sequence[str], model: bytes | None) -> Any:  # noqa: ANN401 - untyped engine
        changed = with_source_in_blocks if graph is variant.decoder else None
        path = bundle / graph.file
        return session(path, "cpu", threads, None, more, exact_integers=exact, model=model, changed=changed)

    # Laying out weights for matrix products takes most of a load, on one core for each graph.
    with ThreadPoolExecutor(len(graphs)) as pool:
        yield from pool.map(loaded, graphs, shown, models)


class OnnxRuntimeState:
    """A `DecodingState` whose tensors are bound once, and stay where they are from step to step.

    Each input is one block, and its queries are multiplied together: of many positions that is faster than in parts.
    """

    def __init__(
        self,
        backend: OnnxRuntimeBackend,
        attention_mask: NDArray[np.int64],
        cross: Mapping[str, NDArray[Any]],
        rows: int,
    ) -> None:
        """Bind what stays the same in all steps.

        Args:
            backend: whose decoder is stepped.
            attention_mask: [batch, source].
            cross: the encoder's outputs by name.
            rows: decoder rows.
        """
        self._session, self._graph = backend.decoder, backend.variant.decoder
        self._binding = backend.decoder.io_binding()
        self._bound: dict[str, _Bound] = {}
        self._shown: list[_Bound] = []
        for name, array in cross.items():
            self._bind(name, array[:, :, None])
        self._bind(names.ATTENTION_MASK, attention_mask)
        self._lengths = self._bind(names.LENGTHS, np.zeros(rows, np.int64))
        self._cache = HostCache(self._graph, rows)
        self._bind_cache()
        self._batch, self._rows, self._length = len(attention_mask), CacheRows(rows), 0
        self._vocabulary = int(self._graph.outputs[0].axes[-1])
        self._place(rows, positions=1)

    def _bind(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """Have an array as an input: its own memory, or a contiguous copy's."""
        bound = self._bound[name] = _Bound(np.ascontiguousarray(array))
        self._binding.bind_ortvalue_input(name, bound.value)
        return bound.array

    def _bind_cache(self) -> None:
        self._cache.bind(self._binding)
        for name, array in cache_positions(self._cache.capacity).items():
            self._bind(name, array)

    def _place(self, rows: int, positions: int) -> None:
        """Have ids and logits of so many positions."""
        self._ids = self._bind(names.INPUT_IDS, np.zeros((rows, positions), np.int64))
        attended = side_by_side(self._graph.inputs, self._batch, rows, positions)
        queries, places = attended[names.ATTENDING_QUERIES], attended[names.ATTENDED_PLACES]
        for name, array in with_parts(queries[:, :, None], places[..., None]).items():
            self._bind(name, array)
        self._logits = _Bound(np.empty((rows, positions, self._vocabulary), np.float32))
        self._binding.bind_ortvalue_output(names.LOGITS, self._logits.value)

    def show(self, values: Sequence[str]) -> list[NDArray[np.int64]]:
        """Have values inside the decoder, each int64 [rows, 1], after every step of one position, in these arrays."""
        self._shown = [_Bound(np.zeros((len(self._lengths), 1), np.int64)) for _ in values]
        for name, bound in zip(values, self._shown, strict=True):
            self._binding.bind_ortvalue_output(name, bound.value)
        return [bound.array for bound in self._shown]

    def step(self, token_ids: NDArray[np.int64], beam_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Feed tokens to every row; see `DecodingState.step`."""
        positions = token_ids.shape[1]
        if token_ids.shape != self._ids.shape:
            self._place(*token_ids.shape)
        moves = self._rows.follow(beam_rows, self._length)
        if self._cache.prepared(moves, self._length, positions):
            self._bind_cache()
        self._ids[:] = self._rows.to_places(token_ids)
        self._lengths[:] = self._length
        run(self._session, self._binding, "cpu")
        self._length += positions
        return self._rows.from_places(self._logits.array)


class _Bound:
    """An array of the host, and the engine's value that is the same memory."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array, self.value = array, onnxruntime.OrtValue.ortvalue_from_numpy(array)
