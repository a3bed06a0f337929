"""What the runtime asks of an inference engine; what steps are, `decoding.step` says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pointsman.decoding import DecodingState, Stepper
from pointsman.decoding.step import AnyRows

ASK_FOR_LESS = "ask for fewer inputs or beams at a time, or use a smaller precision"  # where memory does not suffice


@dataclass(frozen=True, slots=True)
class Source:
    """The inputs of a request, to be encoded.

    Attributes:
        input_ids: int64 [batch, source].
        attention_mask: int64 [batch, source], 1 for a token and 0 for padding.
        rows: decoder rows that will be stepped, a multiple of `batch`.
        room: tokens that will be fed to each of them, at most.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    rows: int
    room: int


class RequestStepper(Stepper[AnyRows], Protocol[AnyRows]):
    """A `Stepper` that encodes what its requests attend to.

    Attributes:
        bytes: of host memory that is held for its requests.
        shares_steps: whether rows of several requests are computed together.
        pads_inputs: whether what is encoded of each input takes as much room as that of the longest.
    """

    @property
    def bytes(self) -> int:
        """See above."""
        ...

    @property
    def shares_steps(self) -> bool:
        """See above."""
        ...

    @property
    def pads_inputs(self) -> bool:
        """See above."""
        ...

    def encode(self, sources: Sequence[Source], pad_id: int) -> list[AnyRows]:
        """Run the encoder once over requests that join.

        Args:
            sources: theirs.
            pad_id: what inputs, and rows that are gone, may be padded with.

        Returns:
            for each its rows.
        """
        ...


class Backend(Protocol):
    """An engine that holds a variant's two graphs.

    Attributes:
        engine: the engine and its version, as `inspect` shows it.
        device: where it runs: `cpu` or `cuda`.
        most_positions: tokens of a row that it takes at once, where it has a limit; more are fed one after another.
    """

    engine: str
    device: str
    most_positions: int | None

    def encode(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], *, rows: int, room: int
    ) -> DecodingState:
        """Run the encoder.

        Args:
            input_ids: [batch, source].
            attention_mask: [batch, source], 1 for a token and 0 for padding.
            rows: decoder rows that will be stepped, a multiple of `batch`.
            room: tokens that will be fed to each of them, at most.
        """
        ...

    def stepper(self, *, shared: bool = True) -> RequestStepper[Any]:
        """What steps requests, without any so far; each has memory of its own.

        Args:
            shared: whether there will be several requests in it at a time.
        """
        ...


@dataclass(frozen=True, slots=True)
class Routing:
    """Which expert each token went to.

    Attributes:
        encoder: int64 [sparse layers, source], for each token of the input.
        decoder: int64 [sparse layers, tokens], for each token that was fed to the decoder.
    """

    encoder: NDArray[np.int64]
    decoder: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ExpertCounts:
    """How many tokens experts were sent, of all that was encoded and stepped since the model was loaded.

    Attributes:
        encoder: int64 [sparse layers, experts].
        decoder: likewise.
        dropped: int64 [sparse layers of the encoder, experts], those of them that an expert had no room for.
    """

    encoder: NDArray[np.int64]
    decoder: NDArray[np.int64]
    dropped: NDArray[np.int64]

    @classmethod
    def none(cls, encoder: int, decoder: int, experts: int) -> "ExpertCounts":
        """No tokens, of so many layers and experts."""
        return cls(*(np.zeros((layers, experts), np.int64) for layers in (encoder, decoder, encoder)))


@runtime_checkable
class RoutingBackend(Backend, Protocol):
    """A backend that can show the routers' choices.

    Attributes:
        counts: of all requests that were decoded.
    """

    counts: ExpertCounts

    def routes(self, input_ids: NDArray[np.int64], fed_ids: NDArray[np.int64]) -> Routing:
        """Feed a decoder one token after the other, as generating does, and show where all tokens went.

        Args:
            input_ids: int64 [1, source].
            fed_ids: int64 [tokens], the decoder start token first.
        """
        ...


def joined(sources: Sequence[Source], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All inputs of several requests: ids and mask, int64 [inputs, longest]."""
    if len(sources) == 1:
        return sources[0].input_ids, sources[0].attention_mask
    longest = max(source.input_ids.shape[1] for source in sources)
    ids = [_widened(source.input_ids, longest, pad_id) for source in sources]
    return np.concatenate(ids), np.concatenate([_widened(source.attention_mask, longest, 0) for source in sources])


def _widened(values: NDArray[np.int64], width: int, filling: int) -> NDArray[np.int64]:
    return np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=filling)
