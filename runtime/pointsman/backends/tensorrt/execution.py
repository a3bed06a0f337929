"""An execution context: given shapes and addresses, and enqueued."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pointsman.backends.tensorrt.profiles import profile_for
from pointsman.bundle import Graph, Profile
from pointsman.errors import DeviceError


class Execution:
    """One context of a plan, and what is bound to it."""

    def __init__(
        self,
        context: Any,  # noqa: ANN401 - untyped library
        graph: Graph,
        profiles: Sequence[Profile],
        stream: int,
        failure: Callable[[], DeviceError],
    ) -> None:
        """Take a new context.

        Args:
            context: the library's.
            graph: the plan's interface.
            profiles: the plan's, in its order.
            stream: where to enqueue.
            failure: what to raise where the library says that a call failed.
        """
        self._context, self._graph, self._profiles = context, graph, profiles
        self._stream, self._failure = stream, failure
        self._profile = 0  # what a context begins with

    def run(self, sizes: Mapping[str, int], addresses: Sequence[int]) -> None:
        """Bind and enqueue; see `Plan.run`."""
        profile = profile_for(self._profiles, sizes)
        if profile != self._profile:
            self._check(self._context.set_optimization_profile_async(profile, self._stream))
            self._profile = profile
        for spec in self._graph.inputs:
            self._check(self._context.set_input_shape(spec.name, spec.shape(sizes)))
        specs = (*self._graph.inputs, *self._graph.outputs)
        for spec, address in zip(specs, addresses, strict=True):
            self._check(self._context.set_tensor_address(spec.name, address))
        self.enqueue()

    def enqueue(self) -> None:
        """Enqueue what is bound."""
        self._check(self._context.execute_async_v3(self._stream))

    def _check(self, done: bool) -> None:  # noqa: FBT001 - what the library returns
        if not done:
            raise self._failure()
