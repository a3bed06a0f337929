"""The rows of many requests in one step on a GPU: a `RequestStepper`, whose rows begin and end independently.

What the host's does (`onnxruntime/host_rows.py`), with memory on the device, and in few shapes, so that steps are found
recorded: rows and inputs that fill a shape up are nobody's.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pointsman.backends.base import Source, joined
from pointsman.backends.cache_rows import CacheRows, Move
from pointsman.backends.gpu.device import Device
from pointsman.backends.gpu.graphs import DeviceGraph, SharedShapes
from pointsman.backends.gpu.memory import Arena, bytes_of
from pointsman.backends.gpu.selection import MOST_SELECTED, Selector
from pointsman.backends.gpu.slots import Slots
from pointsman.backends.gpu.staging import Staging, array_at, upload
from pointsman.bundle import Variant, attending, attention_heads, cache_positions, names
from pointsman.decoding import Answer, Feed, Selection, Selects

_LOGIT = np.dtype(np.float32)


class DeviceRows:
    """The rows of one request, side by side.

    Attributes:
        first: the slot of the first.
        room: tokens that will be fed to each, at most.
        selects: what can be selected of their logits.
    """

    def __init__(self, first: int, rows: int, room: int, selects: Selects) -> None:
        self.first, self.room, self.selects, self._rows = first, room, selects, rows
        self.places = CacheRows(rows)

    def __len__(self) -> int:
        """How many rows there are."""
        return self._rows

    @property
    def slots(self) -> slice:
        """Where they lie."""
        return slice(self.first, self.first + self._rows)

    def keep(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """Go on with some rows, see `Feed.kept`; the slots of the others."""
        gone = np.delete(np.arange(self._rows), self.places.keep(kept)) + self.first
        self._rows = len(kept)
        return gone

    def follow(self, parents: NDArray[np.int64], length: int) -> list[Move]:
        """Let every row continue another; what is to be copied between slots."""
        moves = self.places.follow(parents, length)
        return [Move(self.first + target, self.first + source, first) for target, source, first in moves]


class GpuStepper:
    """All requests that are under way, in memory of the device that they share.

    Rows and inputs lie in the first slots, in the order in which they came. When some leave, those behind them move up,
    at the next step.
    """

    shares_steps = pads_inputs = True
    bytes = 0  # of the host

    def __init__(
        self,
        device: Device,
        variant: Variant,
        graphs: tuple[DeviceGraph, DeviceGraph],
        selector: Selector,
        shapes: SharedShapes,
    ) -> None:
        """Have no requests.

        Args:
            device: where.
            variant: whose graphs they are.
            graphs: the encoder's and the decoder's.
            selector: of tokens.
            shapes: in which the graphs are run.
        """
        self._device, self._selector, self._shapes = device, selector, shapes
        self._encoder, self._decoder = graphs
        self._encoder_graph, self._graph = variant.encoder, variant.graph_of_one_position("decoder")
        self._heads = attention_heads(self._graph.inputs)
        self._selects = Selects(int(self._graph.outputs[0].axes[-1]), MOST_SELECTED)
        self._inputs = Slots(device, variant.encoder.outputs, names.SOURCE)
        self._caches = Slots(device, self._graph.caches, names.CAPACITY)
        self._sources, self._fixed, self._fed, self._named, self._best = (Staging(device) for _ in range(5))
        self._encoded, self._logits = Arena(device), Arena(device)
        self._logits_on_host = Arena(device, on_host=True)
        self._forget()

    def _forget(self) -> None:
        """Have no requests; the memory stays, and is laid out for those that come next."""
        self._requests: list[DeviceRows] = []
        self._lengths = np.zeros(0, np.int64)  # tokens that each row's cache holds
        self._row_inputs = np.zeros(0, np.int64)  # the input that each row attends to
        self._mask = np.zeros((0, 0), np.int64)  # [inputs, source]
        self._gone: list[NDArray[np.int64]] = []
        self._is_prepared = False

    def encode(self, sources: Sequence[Source], pad_id: int) -> list[DeviceRows]:
        """See `RequestStepper.encode`.

        Raises:
            DeviceError: there is too little memory.
        """
        self._device.activate()
        self._close_gaps()
        self._is_prepared = False
        first, (ids, mask) = len(self._mask), joined(sources, pad_id)
        self._add_inputs(ids, mask)
        joining = []
        for source in sources:
            inputs = len(source.input_ids)
            attended = np.repeat(np.arange(first, first + inputs), source.rows // inputs)
            joining.append(DeviceRows(len(self._lengths), source.rows, source.room, self._selects))
            self._row_inputs = np.concatenate([self._row_inputs, attended])
            self._lengths = np.concatenate([self._lengths, np.zeros(source.rows, np.int64)])
            first += inputs
        self._requests += joining
        return joining

    def _add_inputs(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> None:
        """Encode inputs, and put what comes of it into slots."""
        inputs, source = self._shapes.slots(len(ids)), self._shapes.source(ids.shape[1])
        sizes = {names.BATCH: inputs, names.SOURCE: source}
        encoded = self._encoded.place([bytes_of(spec, sizes) for spec in self._encoder_graph.outputs])
        padded = ((0, inputs - len(ids)), (0, source - ids.shape[1]))
        fed = {names.INPUT_IDS: np.pad(ids, padded), names.ATTENTION_MASK: np.pad(mask, padded)}
        fed[names.ATTENTION_MASK][len(ids) :, 0] = 1  # attention needs something to attend to
        places = upload(self._sources, fed)
        self._encoder.run(sizes, (*(places[spec.name] for spec in self._encoder_graph.inputs), *encoded))
        held, length = len(self._mask), max(source, self._mask.shape[1])
        slots = self._shapes.slots(held + len(ids))
        if length > self._inputs.length or slots > self._inputs.count or not held:
            self._inputs.lay_out(slots, length, held=held, filled=self._inputs.length)
        self._inputs.clear(held, len(ids))
        self._inputs.fill(held, len(ids), encoded, source)
        self._device.wait()  # what is staged may be written again
        masks = [np.pad(each, ((0, 0), (0, length - each.shape[1]))) for each in (self._mask, mask)]
        self._mask = np.concatenate(masks)

    def step(self, feeds: Sequence[tuple[DeviceRows, Feed]]) -> list[Answer]:
        """See `Stepper.step`.

        Raises:
            DeviceError: there is too little memory, or the device fails.
        """
        self._device.activate()
        for rows, feed in feeds:
            if feed.kept is not None:
                self._gone.append(rows.keep(feed.kept))
        self._close_gaps()
        self._make_room()
        for rows, feed in feeds:
            length = int(self._lengths[rows.first])
            for move in rows.follow(feed.parents, length):
                self._caches.move(move, length)
        if not self._is_prepared:
            self._prepare()
        ids, lengths = self._fed.arrays
        for rows, feed in feeds:
            ids[rows.slots] = rows.places.to_places(feed.token_ids)
        lengths[: len(self._lengths)] = self._lengths
        self._fed.upload()
        self._decoder.run(self._sizes, self._addresses)
        self._lengths += 1
        return self._answers(feeds)

    def _make_room(self) -> None:
        """Have a slot for each row, and room for all that will be fed to it."""
        rows, longest = len(self._lengths), int(self._lengths.max())
        room = max([longest + 1, *(each.room for each in self._requests)])
        slots, capacity = self._shapes.slots(rows), self._shapes.capacity(room)
        held = int(np.count_nonzero(self._lengths))  # those that have just come are behind them
        if not longest:  # nothing is held: the caches are made for what has come
            if slots > self._caches.count or capacity != self._caches.length:
                self._caches.lay_out(slots, capacity, held=0, filled=0)
        elif slots > self._caches.count or capacity > self._caches.length:
            longer = max(capacity, self._caches.length)
            self._caches.lay_out(max(slots, self._caches.count), longer, held=held, filled=longest)
            self._is_prepared = False
        if held < rows:
            self._caches.clear(held, rows - held)

    def _prepare(self) -> None:
        """Have in place what stays the same until rows come or go."""
        rows, inputs = self._shapes.slots(len(self._lengths)), self._shapes.slots(len(self._mask))
        width = self._shapes.width(int(np.bincount(self._row_inputs).max()))
        attended = attending(self._row_inputs, inputs, heads=self._heads, least_width=width)
        spare = ((0, rows - len(self._lengths)), (0, 0), (0, 0))  # they attend to what the first row attends to
        attended[names.ATTENDED_PLACES] = np.pad(attended[names.ATTENDED_PLACES], spare)
        mask = np.pad(self._mask, ((0, inputs - len(self._mask)), (0, self._inputs.length - self._mask.shape[1])))
        mask[len(self._mask) :, 0] = 1
        places = upload(self._fixed, {names.ATTENTION_MASK: mask, **cache_positions(self._caches.length), **attended})
        self._fed.place(((rows,), np.int64), ((rows,), np.int64))
        for array in self._fed.arrays:
            array[:] = 0
        places |= zip((names.INPUT_IDS, names.LENGTHS), self._fed.addresses, strict=True)
        _, *presents = self._graph.outputs
        for specs, slots in (
            (self._encoder_graph.outputs, self._inputs),
            (self._graph.caches, self._caches),
            (presents, self._caches),
        ):
            places |= {spec.name: place for spec, place in zip(specs, slots.addresses, strict=True)}
        places[names.LOGITS] = self._logits.reserve(rows * self._selects.vocabulary * _LOGIT.itemsize)
        self._addresses = tuple(places[spec.name] for spec in (*self._graph.inputs, *self._graph.outputs))
        self._sizes = {names.BATCH: inputs, names.SOURCE: self._inputs.length, names.ROWS: rows, names.POSITIONS: 1}
        self._sizes |= {names.WIDTH: width, names.CAPACITY: self._caches.length}
        self._device.wait()
        self._is_prepared = True

    def _answers(self, feeds: Sequence[tuple[DeviceRows, Feed]]) -> list[Answer]:
        """Have the best tokens found, or bring all logits, as each request wants it."""
        whole = self._whole_logits() if any(feed.wanted is None for _, feed in feeds) else None
        selected = iter(self._selected([(rows, feed) for rows, feed in feeds if feed.wanted is not None]))
        answers: list[Answer] = []
        for rows, feed in feeds:
            if feed.wanted is None:
                assert whole is not None
                answers.append(rows.places.from_places(whole[rows.slots]))
            else:
                answers.append(next(selected))
        return answers

    def _whole_logits(self) -> NDArray[np.float32]:
        """Float32 [rows, vocabulary]; the next call overwrites them."""
        shape = len(self._lengths), self._selects.vocabulary
        size = shape[0] * shape[1] * _LOGIT.itemsize
        host = self._logits_on_host.reserve(size)
        self._device.copy(host, self._logits.reserve(size), size)
        self._device.wait()
        return array_at(host, shape, _LOGIT)

    def _selected(self, feeds: Sequence[tuple[DeviceRows, Feed]]) -> list[Selection]:
        """The best logits of each request's rows: a kernel for each, and one copy for all."""
        if not feeds:
            return []
        wanted = [feed.wanted for _, feed in feeds if feed.wanted is not None]
        self._named.place(*((each.named_ids.shape, np.int32) for each in wanted))
        for array, (rows, _), each in zip(self._named.arrays, feeds, wanted, strict=True):
            array[:] = rows.places.to_places(each.named_ids)
        self._named.upload()
        self._best.place(
            *(
                layout
                for each in wanted
                for count, named in [(len(each.named_ids), each.named_ids.shape[1])]
                for layout in (
                    ((count, named), np.float32),
                    ((count, each.best), np.int32),
                    ((count, each.best), np.float32),
                    ((count,), np.float32),
                )
            )
        )
        logits, vocabulary = self._logits.reserve(0), self._selects.vocabulary
        for number, ((rows, _), each) in enumerate(zip(feeds, wanted, strict=True)):
            own = logits + rows.first * vocabulary * _LOGIT.itemsize
            results = self._best.addresses[4 * number : 4 * number + 4]
            sizes = (len(rows), vocabulary, each.named_ids.shape[1], each.best)
            self._selector.enqueue(own, self._named.addresses[number], results, sizes)
        self._best.download()
        return [self._selection(rows, number) for number, (rows, _) in enumerate(feeds)]

    def _selection(self, rows: DeviceRows, number: int) -> Selection:
        named, ids, best, totals = (
            rows.places.from_places(array).copy() for array in self._best.arrays[4 * number : 4 * number + 4]
        )
        return Selection(named, ids.astype(np.int64), best, totals)

    def release(self, rows: DeviceRows) -> None:
        """See `Stepper.release`."""
        self._requests.remove(rows)
        self._gone.append(np.arange(rows.first, rows.first + len(rows)))
        if not self._requests:
            self._forget()

    def _close_gaps(self) -> None:
        """Move rows and inputs up to where others have left."""
        if not self._gone:
            return
        kept = np.delete(np.arange(len(self._lengths)), np.concatenate(self._gone))
        self._gone.clear()
        for target, source in enumerate(kept.tolist()):
            if target != source and self._lengths[source]:
                self._caches.copy_slot(target, source)
        self._lengths, attended = self._lengths[kept], self._row_inputs[kept]
        first = 0
        for rows in self._requests:
            rows.first, first = first, first + len(rows)
        inputs, self._row_inputs = np.unique(attended, return_inverse=True)
        for target, source in enumerate(inputs.tolist()):
            if target != source:
                self._inputs.copy_slot(target, source)
        self._mask = self._mask[inputs]
        self._is_prepared = False
