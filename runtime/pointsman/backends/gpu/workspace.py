"""The memory of one request, and what is done in it: encode, step, bring back logits or the best of them.

It outlives the request. The next one that takes it finds the same addresses, so that recorded runs can be replayed.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from pointsman.backends.cache_rows import Move
from pointsman.backends.gpu.device import Device
from pointsman.backends.gpu.graphs import DeviceGraph
from pointsman.backends.gpu.memory import Arena, bytes_of
from pointsman.backends.gpu.selection import Selector
from pointsman.backends.gpu.slots import Slots
from pointsman.backends.gpu.staging import Staging, array_at, upload
from pointsman.bundle import Variant, cache_positions, names, side_by_side
from pointsman.decoding import Selection

_LOGIT = np.dtype(np.float32)


class Workspace:
    """Memory for one request at a time, and the graphs and the kernel that work in it.

    Attributes:
        vocabulary: how many tokens there are.
    """

    def __init__(
        self, device: Device, variant: Variant, encoder: DeviceGraph, decoder: DeviceGraph, selector: Selector
    ) -> None:
        self._device, self._selector = device, selector
        self._encoder, self._decoder = encoder, decoder
        self._encoder_graph, self._graph = variant.encoder, variant.graph_of_one_position("decoder")
        self.vocabulary = int(self._graph.outputs[0].axes[-1])
        self._source, self._fixed, self._fed, self._named, self._best = (Staging(device) for _ in range(5))
        self._cross, self._logits = Arena(device), Arena(device)
        self._logits_on_host = Arena(device, on_host=True)
        self._cache = Slots(device, self._graph.caches, names.CAPACITY)
        self._sizes: Mapping[str, int] = {}

    def encode(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], sizes: Mapping[str, int]) -> None:
        """Begin a request: run the encoder over [batch, source]; the cache is empty."""
        source = {names.INPUT_IDS: input_ids, names.ATTENTION_MASK: attention_mask}
        places = upload(self._source, source)
        outputs = self._encoder_graph.outputs
        crossed = self._cross.place([bytes_of(spec, sizes) for spec in outputs])
        self._encoded = {names.ATTENTION_MASK: places[names.ATTENTION_MASK]}
        self._encoded |= {spec.name: place for spec, place in zip(outputs, crossed, strict=True)}
        encoder_sizes = {axis: sizes[axis] for axis in (names.BATCH, names.SOURCE)}
        inputs = (places[spec.name] for spec in self._encoder_graph.inputs)
        self._encoder.run(encoder_sizes, (*inputs, *crossed))
        self._cache.lay_out(sizes[names.ROWS], sizes[names.CAPACITY], held=0, filled=0)
        self._cache.clear(0, sizes[names.ROWS])
        self._prepare(sizes)
        self._device.wait()

    def _prepare(self, sizes: Mapping[str, int]) -> None:
        """Have in place what is the same in all steps."""
        graph, rows = self._graph, sizes[names.ROWS]
        attended = side_by_side(graph.inputs, sizes[names.BATCH], rows)
        fixed = upload(self._fixed, cache_positions(sizes[names.CAPACITY]) | attended)
        self._fed.place(((rows,), np.int64), ((rows,), np.int64))
        for array in self._fed.arrays:
            array[:] = 0  # rows that are nobody's
        ids, lengths = self._fed.addresses
        _, *presents = graph.outputs
        places = {names.INPUT_IDS: ids, names.LENGTHS: lengths, **self._encoded, **fixed}
        places |= {spec.name: place for spec, place in zip(graph.caches, self._cache.addresses, strict=True)}
        places |= {spec.name: place for spec, place in zip(presents, self._cache.addresses, strict=True)}
        places[names.LOGITS] = self._logits.reserve(rows * self.vocabulary * _LOGIT.itemsize)
        self._addresses = tuple(places[spec.name] for spec in (*graph.inputs, *graph.outputs))
        self._sizes = sizes

    def move(self, moves: Iterable[Move], length: int) -> None:
        """Copy rows of the cache, which holds so many tokens of each."""
        for move in moves:
            self._cache.move(move, length)

    def step(self, token_ids: NDArray[np.int64], length: int) -> None:
        """Feed one token to each row, [rows], behind so many; the logits stay on the device.

        There may be fewer rows than are run: the first ones.
        """
        rows = len(token_ids)
        ids, lengths = self._fed.arrays
        ids[:rows], lengths[:rows] = token_ids, length
        self._fed.upload()
        self._decoder.run(self._sizes, self._addresses)

    def logits(self, rows: int) -> NDArray[np.float32]:
        """All logits of the last step, float32 [rows, vocabulary]; the next call overwrites them."""
        size = rows * self.vocabulary * _LOGIT.itemsize
        host = self._logits_on_host.reserve(size)
        self._device.copy(host, self._logits.reserve(size), size)
        self._device.wait()
        return array_at(host, (rows, self.vocabulary), _LOGIT)

    def selected(
        self, named_ids: NDArray[np.int64], count: int, *, goes_on: bool = False
    ) -> tuple[Selection, NDArray[np.int64] | None]:
        """The best logits of the last step; see `SelectingState.select`.

        Args:
            named_ids: as there.
            count: as there.
            goes_on: whether to begin the next step before the host has seen these, with each row's likeliest token.

        Returns:
            These, and what the next step was begun with, [rows].
        """
        rows, named = named_ids.shape
        self._named.place(((rows, named), np.int32))
        self._named.arrays[0][:] = named_ids
        self._named.upload()
        self._best.place(
            ((rows, named), np.float32),
            ((rows, count), np.int32),
            ((rows, count), np.float32),
            ((rows,), np.float32),
            ((rows,), np.int32),
        )
        *results, likeliest = self._best.addresses
        logits = self._logits.reserve(rows * self.vocabulary * _LOGIT.itemsize)
        sizes = (rows, self.vocabulary, named, count)
        ids, lengths = self._fed.addresses
        following = (likeliest, ids, lengths) if goes_on else (0, 0, 0)
        self._selector.enqueue(logits, self._named.addresses[0], tuple(results), sizes, following)
        wait = self._best.fetch()
        if goes_on:
            self._decoder.run(self._sizes, self._addresses)
        wait()
        named_logits, best_ids, best_logits, log_total, begun = self._best.arrays
        found = Selection(named_logits.copy(), best_ids.astype(np.int64), best_logits.copy(), log_total.copy())
        return found, begun.astype(np.int64) if goes_on else None
