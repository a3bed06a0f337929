"""The memory of one request, and what is done in it: encode, step, bring back logits or the best of them.

It outlives the request. The next one that takes it finds the same addresses, so that recorded steps can be replayed.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from pointsman.backends.cache_rows import Move
from pointsman.backends.tensorrt.device import Device
from pointsman.backends.tensorrt.memory import Arena, Cache, bytes_of
from pointsman.backends.tensorrt.plan import Plan
from pointsman.backends.tensorrt.selection import Selector
from pointsman.backends.tensorrt.staging import Staging, array_at
from pointsman.bundle import Variant, names, side_by_side
from pointsman.decoding import Selection

_LOGIT = np.dtype(np.float32)


class Workspace:
    """Memory for one request at a time, and the plans and the kernel that work in it.

    Attributes:
        vocabulary: how many tokens there are.
    """

    def __init__(self, device: Device, variant: Variant, encoder: Plan, decoder: Plan, selector: Selector) -> None:
        self._device, self._selector = device, selector
        self._encoder, self._decoder = encoder, decoder
        self._cross_specs = variant.encoder.outputs
        self.vocabulary = int(variant.decoder.outputs[0].axes[-1])
        self._source, self._fed, self._named, self._best = (Staging(device) for _ in range(4))
        self._cross, self._logits = Arena(device), Arena(device)
        self._logits_on_host = Arena(device, on_host=True)
        self._cache = Cache(device, variant.decoder.caches)
        self._cross_places: tuple[int, ...] = ()

    def encode(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], sizes: Mapping[str, int]) -> None:
        """Begin a request: run the encoder over [batch, source]; the cache is empty."""
        rows = side_by_side(sizes[names.BATCH], sizes[names.ROWS])
        inputs = (input_ids, attention_mask, rows[names.ATTENDING_ROWS], rows[names.ROW_PLACES])
        self._source.place(*((array.shape, np.int64) for array in inputs))
        for array, content in zip(self._source.arrays, inputs, strict=True):
            array[:] = content
        self._source.upload()
        self._cross_places = self._cross.place([bytes_of(spec, sizes) for spec in self._cross_specs])
        encoder_sizes = {axis: sizes[axis] for axis in (names.BATCH, names.SOURCE)}
        self._encoder.run(encoder_sizes, (*self._source.addresses[:2], *self._cross_places))
        self._cache.begin(sizes[names.ROWS], sizes[names.CAPACITY])
        self._device.wait()

    def move(self, moves: Iterable[Move], length: int) -> None:
        """Copy rows of the cache, which holds so many tokens of each."""
        self._cache.move(moves, length)

    def step(self, token_ids: NDArray[np.int64], length: int, sizes: Mapping[str, int]) -> None:
        """Feed one token to each row, [rows], behind so many; the logits stay on the device."""
        self._fed.place((token_ids.shape, np.int64), (token_ids.shape, np.int64))
        for array, content in zip(self._fed.arrays, (token_ids, length), strict=True):
            array[:] = content
        self._fed.upload()
        (ids, lengths), (_, mask, *rows) = self._fed.addresses, self._source.addresses
        logits = self._logits.reserve(len(token_ids) * self.vocabulary * _LOGIT.itemsize)
        # In the manifest's order of the decoder's inputs and outputs.
        cache = self._cache.addresses
        addresses = (ids, mask, lengths, *rows, *self._cross_places, *cache, logits, *cache)
        self._decoder.run(sizes, addresses)

    def logits(self, rows: int) -> NDArray[np.float32]:
        """All logits of the last step, float32 [rows, vocabulary]; the next call overwrites them."""
        size = rows * self.vocabulary * _LOGIT.itemsize
        host = self._logits_on_host.reserve(size)
        self._device.copy(host, self._logits.reserve(size), size)
        self._device.wait()
        return array_at(host, (rows, self.vocabulary), _LOGIT)

    def selected(self, named_ids: NDArray[np.int64], count: int) -> Selection:
        """The best logits of the last step; see `SelectingState.select`."""
        rows, named = named_ids.shape
        self._named.place(((rows, named), np.int32))
        self._named.arrays[0][:] = named_ids
        self._named.upload()
        self._best.place(
            ((rows, named), np.float32), ((rows, count), np.int32), ((rows, count), np.float32), ((rows,), np.float32)
        )
        logits = self._logits.reserve(rows * self.vocabulary * _LOGIT.itemsize)
        sizes = (rows, self.vocabulary, named, count)
        self._selector.enqueue(logits, self._named.addresses[0], self._best.addresses, sizes)
        self._best.download()
        named_logits, best_ids, best_logits, log_total = self._best.arrays
        return Selection(named_logits.copy(), best_ids.astype(np.int64), best_logits.copy(), log_total.copy())
