"""ONNX Runtime on the CPU in the place of TensorRT: the same calls, on addresses of host memory.

A plan of this stand-in is JSON: the path of a graph, and the ranges of shapes of each profile. It refuses what TensorRT
refuses: shapes outside the profile, missing addresses, damaged plans. That the real library has the calls that are made
here is tested against TensorRT-RTX; that it answers like this one is not.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from pointsman.backends.gpu.staging import array_at
from pointsman.bundle import Graph, Profile
from unit.backends.host_device import HostDevice

NUMPY = {"tensor(int64)": np.int64, "tensor(float)": np.float32}


def plan_bytes(graph_file: Path, graph: Graph, profiles: tuple[Profile, ...]) -> bytes:
    """A plan of a graph."""
    ranges = [{spec.name: profile.shapes(spec) for spec in graph.inputs} for profile in profiles]
    return json.dumps({"graph": str(graph_file), "profiles": ranges}).encode()


class HostTensorRT:
    """The library; `made` collects what it made."""

    __name__, __version__ = "host_tensorrt", "1.0"

    def __init__(self, device: HostDevice) -> None:
        self.contexts: list[Context] = []
        library = self

        class Logger:
            Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0, WARNING=2)

        class Runtime:
            def __init__(self, logger: Any) -> None:
                self.logger, self.engine_host_code_allowed = logger, False

            def deserialize_cuda_engine(self, data: Any) -> "Engine | None":
                try:
                    plan = json.loads(bytes(data))
                except ValueError:
                    self.logger.log(2, "a warning")
                    self.logger.log(1, "Error Code 1: Serialization (magicTag)\nand more")
                    return None
                return Engine(plan, self.logger, device, library)

        self.ILogger, self.Runtime = Logger, Runtime
        self.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")


@dataclass
class Engine:
    plan: dict[str, Any]
    logger: Any
    device: HostDevice
    library: HostTensorRT
    session: Any = None

    device_memory_size_v2 = 1000

    def create_execution_context(self, strategy: str) -> "Context | None":
        assert strategy == "user managed"
        if self.plan.get("greedy"):
            self.logger.log(1, "Error Code 2: OutOfMemory (Requested size was 12345 bytes.)")
            return None
        self.session = self.session or onnxruntime.InferenceSession(self.plan["graph"])
        context = Context(self, self.session)
        self.library.contexts.append(context)
        return context


@dataclass
class Context:
    engine: Engine
    session: Any
    profile: int = 0
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)
    activations: int | None = None
    recorded: bool = False  # from then on nothing of it may be changed

    def set_device_memory(self, address: int, size: int) -> None:
        assert size == self.engine.device_memory_size_v2
        self.engine.device.check(address, size)
        self.activations = address

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert stream == self.engine.device.stream
        assert not self.recorded
        self.profile, self.shapes = index, {}
        return index < len(self.engine.plan["profiles"])

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, greatest = self.engine.plan["profiles"][self.profile][name]
        assert not self.recorded
        self.shapes[name] = shape
        if all(low <= size <= high for low, size, high in zip(least, shape, greatest, strict=True)):
            return True
        self.engine.logger.log(1, f"Error Code 3: API Usage Error ({name} {shape} is outside profile {self.profile})")
        return False

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert not self.recorded
        assert address % 256 == 0
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == self.engine.device.stream
        assert self.activations is not None
        self.recorded = self.engine.device.recorded is not None
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        self.engine.device.submit(lambda: self._run(shapes, addresses))
        return True

    def _run(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        feeds = {}
        for value in self.session.get_inputs():
            dtype = NUMPY[value.type]
            self.engine.device.check(addresses[value.name], math.prod(shapes[value.name]) * np.dtype(dtype).itemsize)
            feeds[value.name] = array_at(addresses[value.name], shapes[value.name], dtype).copy()
        names = [value.name for value in self.session.get_outputs()]
        for name, result in zip(names, self.session.run(names, feeds), strict=True):
            self.engine.device.check(addresses[name], result.nbytes)
            array_at(addresses[name], result.shape, result.dtype)[...] = result
