"""How many tokens every expert is sent, counted while requests are encoded and stepped together."""

from collections.abc import Sequence
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from pointsman.backends.base import ExpertCounts


class SharedCounts:
    """What several count, each in a thread of its own.

    Attributes:
        counts: so far.
    """

    def __init__(self, counts: ExpertCounts) -> None:
        self.counts, self.lock = counts, Lock()


class CountedChoices:
    """The arrays that the routers' choices come into, of one stepper."""

    def __init__(
        self, encoder: Sequence[str], decoder: Sequence[str], shared: SharedCounts, capacity: int | None
    ) -> None:
        """Have none.

        Args:
            encoder: names of the choices' values, by sparse layer.
            decoder: likewise.
            shared: where they are counted.
            capacity: tokens that an expert accepts of one input; None for all. A decoder's step exceeds none.
        """
        self._names = {"encoder": encoder, "decoder": decoder}
        self._shared, self._capacity = shared, capacity
        self._num_experts = num_experts = shared.counts.decoder.shape[-1]
        self._encoder: dict[str, NDArray[np.int64]] = {}
        self._decoder = np.zeros((len(decoder), 0, 1), np.int64)  # [layers, rows, 1]
        self._first_of_layers = num_experts * np.arange(len(decoder))[:, None, None]

    def of_encoder(self, inputs: int, tokens: int) -> dict[str, NDArray[np.int64]]:
        """Where the encoder is to write its choices, int64 [inputs, tokens] each."""
        self._encoder = {name: np.zeros((inputs, tokens), np.int64) for name in self._names["encoder"]}
        return self._encoder

    def of_decoder(self, rows: int) -> dict[str, NDArray[np.int64]]:
        """Where steps are to write theirs, int64 [rows, 1] each."""
        self._decoder = np.zeros((len(self._decoder), rows, 1), np.int64)
        return dict(zip(self._names["decoder"], self._decoder, strict=True))

    def encoded(self, mask: NDArray[np.int64]) -> None:
        """Count what the encoder has written; padding, where the mask is 0, is none of it."""
        counts = self._shared.counts
        with self._shared.lock:
            for layer, choices in enumerate(self._encoder.values()):
                for input_choices, input_mask in zip(choices, mask, strict=True):
                    sent = np.bincount(input_choices[input_mask != 0], minlength=self._num_experts)
                    counts.encoder[layer] += sent
                    if self._capacity is not None:
                        counts.dropped[layer] += np.maximum(sent - self._capacity, 0)

    def stepped(self) -> None:
        """Count what a step has written."""
        counts = self._shared.counts.decoder
        sent = np.bincount((self._decoder + self._first_of_layers).ravel(), minlength=counts.size)
        with self._shared.lock:
            counts += sent.reshape(counts.shape)
