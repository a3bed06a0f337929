"""How many tokens every expert is sent, counted while requests are encoded and stepped together."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pointsman.backends.base import ExpertCounts


class CountedChoices:
    """The arrays that the routers' choices come into, and what was counted in them.

    Attributes:
        counts: so far.
    """

    def __init__(self, encoder: Sequence[str], decoder: Sequence[str], num_experts: int, capacity: int | None) -> None:
        """Begin with nothing.

        Args:
            encoder: names of the choices' values, by sparse layer.
            decoder: likewise.
            num_experts: of each layer.
            capacity: tokens that an expert accepts of one input; None for all. A decoder's step exceeds none.
        """
        self._names = {"encoder": encoder, "decoder": decoder}
        self._num_experts, self._capacity = num_experts, capacity
        self._encoder: dict[str, NDArray[np.int64]] = {}
        self._decoder = np.zeros((len(decoder), 0, 1), np.int64)  # [layers, rows, 1]
        self._first_of_layers = num_experts * np.arange(len(decoder))[:, None, None]
        self.counts = ExpertCounts.none(len(encoder), len(decoder), num_experts)

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
        for layer, choices in enumerate(self._encoder.values()):
            for input_choices, input_mask in zip(choices, mask, strict=True):
                sent = np.bincount(input_choices[input_mask != 0], minlength=self._num_experts)
                self.counts.encoder[layer] += sent
                if self._capacity is not None:
                    self.counts.dropped[layer] += np.maximum(sent - self._capacity, 0)

    def stepped(self) -> None:
        """Count what a step has written."""
        counts = self.counts.decoder
        sent = np.bincount((self._decoder + self._first_of_layers).ravel(), minlength=counts.size)
        counts += sent.reshape(counts.shape)
