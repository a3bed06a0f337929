"""One TensorRT plan: loaded, run, and from the third time of the same run on, replayed."""

import mmap
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pointsman.backends.gpu.cuda import OUT_OF_MEMORY
from pointsman.backends.gpu.device import Device
from pointsman.backends.gpu.replays import Replays
from pointsman.backends.tensorrt.contexts import contexts_of
from pointsman.backends.tensorrt.execution import Execution
from pointsman.backends.tensorrt.libraries import Complaints
from pointsman.backends.tensorrt.validity import REBUILD, check_plan
from pointsman.bundle import Graph, PlanRecord
from pointsman.errors import DeviceError


class Plan:
    """A plan on a device. One thread at a time may use it.

    Attributes:
        replays: what was recorded of its runs; nothing where the library records by itself.
    """

    def __init__(self, device: Device, library: ModuleType, record: PlanRecord, graph: Graph, path: Path) -> None:
        """Load a plan that was checked.

        Args:
            device: where.
            library: what runs it.
            record: its record.
            graph: the interface that it was built from.
            path: its file.

        Raises:
            DeviceError: the library refuses it, or the device's memory does not hold it.
        """
        self._device, self._graph, self._record = device, graph, record
        self._complaints = Complaints(library)
        self.replays = Replays()
        self._runtime = library.Runtime(self._complaints.logger)
        for message in self._complaints.taken():  # TensorRT returns one that cannot be used, and crashes later
            raise DeviceError(f"{library.__name__} does not start: {message}; check the NVIDIA driver")
        # Version-compatible plans bring the code that runs them.
        self._runtime.engine_host_code_allowed = record.options.version_compatible
        plan = self._loaded(library, path)
        if record.options.weight_streaming:
            plan.weight_streaming_budget_v2 = plan.get_weight_streaming_automatic_budget()
        self._contexts = contexts_of(device, library, plan, record.file.sha256)
        self._execution = self._new_execution()

    def _loaded(self, library: ModuleType, path: Path) -> Any:  # noqa: ANN401 - untyped library
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            check_plan(library, self._runtime, data[: getattr(self._runtime, "engine_header_size", 0)], self._device)
            return self._made(self._runtime.deserialize_cuda_engine(data), "loaded")

    def _new_execution(self) -> Execution:
        context = self._made(self._contexts.make(), "prepared")
        stream = self._device.stream
        return Execution(context, self._graph, self._record.profiles, stream, lambda: self._failure("run"))

    def run(self, sizes: Mapping[str, int], addresses: Sequence[int]) -> None:
        """Enqueue one run.

        Args:
            sizes: of the dynamic axes of the inputs, always in the same order.
            addresses: of all inputs, then all outputs, in the order of the graph's specs.

        Raises:
            OptionsError: no profile admits these sizes.
            DeviceError: it fails.
        """
        if self._contexts.recordable:
            key = (tuple(sizes.values()), tuple(addresses))
            do, record = (lambda: self._execution.run(sizes, addresses)), (lambda: self._recorded(sizes, addresses))
            self.replays.run(key, do, record)
        else:
            self._execution.run(sizes, addresses)

    def _recorded(self, sizes: Mapping[str, int], addresses: Sequence[int]) -> "_Recording":
        """A run, recorded from a context of its own, which settles into the shapes by running once."""
        execution = self._new_execution()
        execution.run(sizes, addresses)
        return _Recording(self._device.capture(execution.enqueue), execution)

    def _made(self, found: Any, verb: str) -> Any:  # noqa: ANN401 - untyped library
        if found is None:
            raise self._failure(verb)
        return found

    def _failure(self, verb: str) -> DeviceError:
        message = self._complaints.first()
        if re.search(r"out\s*of\s*memory", message, re.IGNORECASE):
            return DeviceError(OUT_OF_MEMORY)
        return DeviceError(f"the {self._record.role} engine cannot be {verb}: {message}; {REBUILD}")


@dataclass(frozen=True, slots=True)
class _Recording:
    """A recorded run, and the context that it was recorded from: it has to stay, and to stay as it is."""

    replay: Callable[[], None]
    execution: Execution

    def __call__(self) -> None:
        """Do it again."""
        self.replay()
