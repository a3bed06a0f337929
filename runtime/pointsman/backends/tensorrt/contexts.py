"""Execution contexts of a plan, and what each library needs to know to make them."""

from types import ModuleType
from typing import Any, Protocol

from pointsman.backends.gpu.device import Device
from pointsman.backends.gpu.memory import Arena
from pointsman.backends.tensorrt.kernel_cache import KernelCache


class Contexts(Protocol):
    """Makes contexts of one plan.

    Attributes:
        recordable: whether what they enqueue may be recorded.
    """

    recordable: bool

    def make(self) -> Any:  # noqa: ANN401 - untyped library
        """A new context; None where the library fails."""
        ...


def contexts_of(device: Device, library: ModuleType, plan: Any, plan_sha256: str) -> Contexts:  # noqa: ANN401
    """How contexts of a deserialized plan are made, by the library that it is of."""
    if hasattr(library, "IRuntimeCache"):
        return _RtxContexts(library, plan, plan_sha256)
    return _SharingContexts(device, library, plan)


class _SharingContexts:
    """TensorRT's. They share the memory for activations, since they work one after another.

    A context must not be changed once a graph was captured from it, so that every recording needs one of its own.
    """

    recordable = True

    def __init__(self, device: Device, library: ModuleType, plan: Any) -> None:  # noqa: ANN401
        self._plan, self._strategy = plan, library.ExecutionContextAllocationStrategy.USER_MANAGED
        self._size = max(int(plan.device_memory_size_v2), 1)
        self._activations = Arena(device)

    def make(self) -> Any:  # noqa: ANN401
        """See `Contexts.make`."""
        context = self._plan.create_execution_context(self._strategy)
        if context is not None:
            context.set_device_memory(self._activations.reserve(self._size), self._size)
        return context


class _RtxContexts:
    """TensorRT-RTX's. It captures CUDA graphs by itself, and knows when a kernel was replaced by a faster one."""

    recordable = False

    def __init__(self, library: ModuleType, plan: Any, plan_sha256: str) -> None:  # noqa: ANN401
        self._plan, self._config = plan, plan.create_runtime_config()
        strategies = library.DynamicShapesKernelSpecializationStrategy
        self._config.dynamic_shapes_kernel_specialization_strategy = strategies.LAZY
        self._config.cuda_graph_strategy = library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._kernels = KernelCache(self._config, plan_sha256)

    def make(self) -> Any:  # noqa: ANN401
        """See `Contexts.make`."""
        return self._plan.create_execution_context(self._config)
