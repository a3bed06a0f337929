"""One TensorRT plan: loaded, given shapes and addresses, run."""

import mmap
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pointsman.backends.tensorrt.cuda import OUT_OF_MEMORY
from pointsman.backends.tensorrt.device import Device
from pointsman.backends.tensorrt.kernel_cache import KernelCache
from pointsman.backends.tensorrt.libraries import Complaints
from pointsman.backends.tensorrt.memory import shape_of
from pointsman.backends.tensorrt.profiles import profile_for
from pointsman.backends.tensorrt.replays import Replays
from pointsman.backends.tensorrt.validity import REBUILD, check_plan
from pointsman.errors import DeviceError
from pointsman.manifest import Engine, Graph


class Plan:
    """A plan on a device, and the context that runs it. One thread at a time may use it.

    Attributes:
        replays: what was recorded of its runs.
    """

    def __init__(self, device: Device, library: ModuleType, engine: Engine, graph: Graph, path: Path) -> None:
        """Load a plan that was checked.

        Args:
            device: where.
            library: what runs it.
            engine: its record.
            graph: the interface that it was built from.
            path: its file.

        Raises:
            DeviceError: the library refuses it, or the device's memory does not hold it.
        """
        self._device, self._graph, self._profiles = device, graph, engine.profiles
        self._complaints = Complaints(library)
        self._what = f"the {engine.role} engine"
        self.replays = Replays(device)
        self._runtime = library.Runtime(self._complaints.logger)
        for message in self._complaints.taken():  # TensorRT returns one that cannot be used, and crashes later
            raise DeviceError(f"{library.__name__} does not start: {message}; check the NVIDIA driver")
        # Version-compatible plans bring the code that runs them.
        self._runtime.engine_host_code_allowed = engine.options.version_compatible
        self._engine = self._loaded(library, path)
        if engine.options.weight_streaming:
            self._engine.weight_streaming_budget_v2 = self._engine.get_weight_streaming_automatic_budget()
        self._kernels = KernelCache(library, self._engine, engine.file.sha256)
        self._context = self._made(self._kernels.context(), "prepared")
        self._profile = 0  # what a context begins with

    def _loaded(self, library: ModuleType, path: Path) -> Any:  # noqa: ANN401 - untyped library
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            check_plan(library, self._runtime, data[: getattr(self._runtime, "engine_header_size", 0)], self._device)
            return self._made(self._runtime.deserialize_cuda_engine(data), "loaded")

    def run(self, sizes: Mapping[str, int], addresses: Sequence[int]) -> None:
        """Enqueue one run.

        Args:
            sizes: of the dynamic axes of the inputs.
            addresses: of all inputs, then all outputs, in the order of the graph's specs.

        Raises:
            OptionsError: no profile admits these sizes.
            DeviceError: it fails.
        """
        key = (tuple(sizes.values()), tuple(addresses))
        self.replays.run(key, lambda: self._bind(sizes, addresses), self._enqueue)

    def _bind(self, sizes: Mapping[str, int], addresses: Sequence[int]) -> None:
        profile = profile_for(self._profiles, sizes)
        if profile != self._profile:
            self._check(self._context.set_optimization_profile_async(profile, self._device.stream))
            self._profile = profile
        for spec in self._graph.inputs:
            self._check(self._context.set_input_shape(spec.name, shape_of(spec, sizes)))
        specs = (*self._graph.inputs, *self._graph.outputs)
        for spec, address in zip(specs, addresses, strict=True):
            self._check(self._context.set_tensor_address(spec.name, address))

    def _enqueue(self) -> bool:
        """Run what is bound; returns whether it could be recorded."""
        self._check(self._context.execute_async_v3(self._device.stream))
        # TensorRT-RTX knows better: kernels for new shapes are compiled while others stand in.
        capturable = getattr(self._context, "is_stream_capturable", None)
        return capturable is None or bool(capturable(self._device.stream))

    def _check(self, done: bool) -> None:  # noqa: FBT001 - what the library returns
        if not done:
            raise DeviceError(self._failure("run"))

    def _made(self, found: Any, verb: str) -> Any:  # noqa: ANN401 - untyped library
        if found is None:
            raise DeviceError(self._failure(verb))
        return found

    def _failure(self, verb: str) -> str:
        message = self._complaints.first()
        if re.search(r"out\s*of\s*memory", message, re.IGNORECASE):
            return OUT_OF_MEMORY
        return f"{self._what} cannot be {verb}: {message}; {REBUILD}"
