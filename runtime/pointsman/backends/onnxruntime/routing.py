"""A backend whose graphs also give the routers' choices, where those are asked for."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pointsman.backends.base import ExpertCounts, Routing
from pointsman.backends.onnxruntime.backend import OnnxRuntimeBackend
from pointsman.backends.onnxruntime.choices import CountedChoices, SharedCounts
from pointsman.backends.onnxruntime.host.host_rows import HostStepper
from pointsman.bundle import Architecture, Variant, names
from pointsman.bundle.interface import ROLES, Role


class RoutedBackend(OnnxRuntimeBackend):
    """A variant's graphs with every router's choice as a further output, and counted."""

    def __init__(
        self,
        bundle: Path,
        variant: Variant,
        architecture: Architecture,
        *,
        threads: int | None,
        max_memory: int | None = None,
    ) -> None:
        """Load the graphs; errors are those of `OnnxRuntimeBackend`."""
        self._choices = {role: _choices(architecture, role) for role in ROLES}
        shown = [self._choices[role] for role in ROLES]
        super().__init__(bundle, variant, threads=threads, max_memory=max_memory, shown=shown)
        encoder, decoder = (len(self._choices[role]) for role in ROLES)
        self.counts = ExpertCounts.none(encoder, decoder, architecture.num_experts)
        self._shared = SharedCounts(self.counts)

    def stepper(self, *, shared: bool = True) -> HostStepper:  # noqa: ARG002 - the same for one
        """See `Backend.stepper`; its steps are counted."""
        encoder, decoder = (self._choices[role] for role in ROLES)
        choices = CountedChoices(encoder, decoder, self._shared, self.variant.capacity)
        return HostStepper(self.encoder, self.decoder, self.variant, self._memory, choices)

    def routes(self, input_ids: NDArray[np.int64], fed_ids: NDArray[np.int64]) -> Routing:
        """See `RoutingBackend.routes`."""
        mask = np.ones_like(input_ids)
        inputs = {names.INPUT_IDS: input_ids, names.ATTENTION_MASK: mask}
        choices = self._choices["encoder"]
        encoder = self.encoder.run(choices, inputs) if choices else []
        state = self.encode(input_ids, mask, rows=1, room=len(fed_ids))
        shown = state.show(self._choices["decoder"])
        decoder = np.empty((len(shown), len(fed_ids)), np.int64)
        for place, token in enumerate(fed_ids):
            state.step(np.full((1, 1), token), np.zeros(1, np.int64))
            decoder[:, place] = [choice[0, 0] for choice in shown]
        return Routing(np.array(encoder, np.int64).reshape(len(choices), -1), decoder)


def _choices(architecture: Architecture, role: Role) -> list[str]:
    """The values that hold the choices of a stack's routers, in the order of its blocks."""
    layers = architecture.stack(role).sparse_layers
    return [names.expert_choice(names.sparse_layer(role, number)) for number in layers]
