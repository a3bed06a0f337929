"""The rows of many requests in one step on the CPU: a `RequestStepper`, whose rows begin and end independently."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pointsman.backends.base import Source
from pointsman.backends.cache_rows import CacheRows, Move
from pointsman.backends.onnxruntime.choices import CountedChoices
from pointsman.backends.onnxruntime.host.encoded_blocks import EncodedBlocks
from pointsman.backends.onnxruntime.host.encoder_runs import Run, encoder_runs, length
from pointsman.backends.onnxruntime.host.memory import Memory
from pointsman.backends.onnxruntime.host.row_caches import RowCaches
from pointsman.backends.onnxruntime.session import run
from pointsman.bundle import Variant, attention_heads, cache_positions, names
from pointsman.decoding import Feed

_Slots = slice | NDArray[np.int64]


class HostRows:
    """The rows of one request.

    Attributes:
        selects: nothing: logits are where decoding is.
        slots: int64 [rows], where its rows lie, in the order of their places.
    """

    selects = None

    def __init__(self, slots: NDArray[np.int64]) -> None:
        self.slots, self._places = slots, CacheRows(len(slots))

    def keep(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """Go on with some rows, see `Feed.kept`; the slots of the others."""
        staying = self._places.keep(kept)
        gone = np.delete(self.slots, staying)
        self.slots = self.slots[staying]
        return gone

    def follow(self, parents: NDArray[np.int64], length: int) -> list[Move]:
        """Let every row continue another; what is to be copied between slots."""
        moves, slots = self._places.follow(parents, length), self.slots
        return [Move(int(slots[target]), int(slots[source]), first) for target, source, first in moves]

    def write(self, token_ids: NDArray[np.int64], slots: NDArray[np.int64]) -> None:
        """Put a token for each row into its slot."""
        slots[self._span()] = self._places.to_places(token_ids)

    def read(self, slots: NDArray[np.float32], spare: NDArray[np.float32]) -> NDArray[np.float32]:
        """What each row finds in its slot, put in order in the same slots of `spare`; a view, where it is in order."""
        span = self._span()
        return self._places.from_places(slots[span], spare[span])

    def _span(self) -> _Slots:
        first, last = int(self.slots[0]), int(self.slots[-1])
        rows = len(self.slots)
        if rows == 1 or (last - first == rows - 1 and (self.slots[1:] - self.slots[:-1] == 1).all()):
            return slice(first, first + rows)
        return self.slots


class HostStepper:
    """All requests that are under way, in memory that they share.

    Rows, and blocks of inputs, lie in the first slots of their arrays. When some leave, the last move to where they
    were, at the next step: as long as none comes or leaves, a step copies nothing, and binds nothing anew.
    """

    shares_steps, pads_inputs = True, False

    def __init__(
        self,
        encoder: Any,  # noqa: ANN401 - untyped engine
        decoder: Any,  # noqa: ANN401
        variant: Variant,
        memory: Memory,
        choices: CountedChoices | None = None,
    ) -> None:
        """Have no requests.

        Args:
            encoder: the session of its graph.
            decoder: likewise.
            variant: whose they are.
            memory: where inputs and caches are to lie.
            choices: counts where tokens go, if both have these outputs.
        """
        self._choices = choices
        self._encoder, self._decoder, self._binding = encoder, decoder, decoder.io_binding()
        self._pasts = [spec.name for spec in variant.decoder.caches]
        logits, *presents = variant.decoder.outputs
        self._presents = [spec.name for spec in presents]
        self._inputs = EncodedBlocks(variant.encoder.outputs, attention_heads(variant.decoder.inputs), memory)
        self._caches = RowCaches(variant.decoder.caches, memory)
        self._vocabulary = int(logits.axes[-1])
        self._clear()

    def _clear(self) -> None:
        """Give all memory back."""
        self._inputs.clear()
        self._caches.clear()
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        self._requests: list[HostRows] = []
        self._row_inputs = np.zeros(0, np.int64)  # the input that each row attends to
        self._gone: list[NDArray[np.int64]] = []  # slots of rows that have left since the last step
        self._ids, self._logits = np.zeros(0, np.int64), np.empty((0, 1, self._vocabulary), np.float32)
        self._ordered = np.empty((0, self._vocabulary), np.float32)
        self._bound: list[Any] = []  # values of the host are the arrays' own memory, which the binding does not keep
        self._is_bound = False

    @property
    def bytes(self) -> int:
        """Of memory that is held for inputs and rows."""
        return self._inputs.bytes + self._caches.bytes + self._logits.nbytes + self._ordered.nbytes

    def encode(self, sources: Sequence[Source], pad_id: int) -> list[HostRows]:
        """See `RequestStepper.encode`.

        Raises:
            DeviceError: there is too little memory.
        """
        self._close_gaps()
        self._is_bound = False
        runs = encoder_runs(sources, pad_id)
        lengths = [length(mask) for one in runs for mask in one.mask]
        try:
            self._inputs.make_room(lengths)
            self._encode(runs)
            slots = self._caches.add(sum(source.rows for source in sources))
        except BaseException:
            if not self._requests:
                self._clear()
            raise
        # Only now, when nothing can fail any more, do they count.
        order = np.concatenate([one.inputs for one in runs])
        each = [source.rows // len(source.input_ids) for source in sources for _ in source.input_ids]
        attended = len(self._inputs) + np.repeat(np.argsort(order), each)
        self._inputs.arrived(lengths)
        self._row_inputs = np.concatenate([self._row_inputs, attended])
        ends = np.cumsum([source.rows for source in sources])
        joining = [HostRows(own) for own in np.split(slots, ends[:-1])]
        self._requests += joining
        return joining

    def _encode(self, runs: Sequence[Run]) -> None:
        """Run the encoder, with what it gives in slots behind those of other inputs."""
        first = 0
        for one in runs:
            outputs = self._inputs.targets(first, *one.ids.shape)
            self._run_encoder(one, outputs.by_name)
            first = self._inputs.put(first, one.mask, outputs)

    def _run_encoder(self, one: Run, outputs: Mapping[str, NDArray[Any]]) -> None:
        choices = {} if self._choices is None else self._choices.of_encoder(*one.ids.shape)
        binding = self._encoder.io_binding()
        binding.bind_cpu_input(names.INPUT_IDS, one.ids)
        binding.bind_cpu_input(names.ATTENTION_MASK, one.mask)
        _bind_each(binding.bind_ortvalue_output, {**outputs, **choices})
        run(self._encoder, binding, "cpu")
        if self._choices is not None:
            self._choices.encoded(one.mask)

    def step(self, feeds: Sequence[tuple[HostRows, Feed]]) -> list[NDArray[np.float32]]:
        """See `Stepper.step`.

        Raises:
            DeviceError: there is too little memory.
        """
        for rows, feed in feeds:
            if feed.kept is not None:
                self._gone.append(rows.keep(feed.kept))
        self._close_gaps()
        for rows, feed in feeds:
            length = int(self._caches.lengths[rows.slots[0]])
            self._caches.move(rows.follow(feed.parents, length), length)
        was_bound, self._is_bound = self._is_bound, False  # until it is certain where everything lies
        has_moved = [self._inputs.tidy(), self._caches.make_room()]
        if any(has_moved) or not was_bound:
            self._bind()
        self._is_bound = True
        for rows, feed in feeds:
            rows.write(feed.token_ids, self._ids)
        run(self._decoder, self._binding, "cpu")
        self._caches.lengths += 1
        if self._choices is not None:
            self._choices.stepped()
        return [rows.read(self._logits[:, 0], self._ordered) for rows, _ in feeds]

    def release(self, rows: HostRows) -> None:
        """See `Stepper.release`."""
        self._requests.remove(rows)
        self._gone.append(rows.slots)
        if not self._requests:
            self._clear()

    def _close_gaps(self) -> None:
        """Move the last rows and inputs to where others have left."""
        if not self._gone:
            return
        kept = np.delete(np.arange(len(self._caches)), np.concatenate(self._gone))
        self._gone.clear()
        attended, renamed = self._row_inputs[kept], self._caches.keep(kept)
        for rows in self._requests:
            rows.slots = renamed[rows.slots]
        inputs = np.unique(attended)
        if len(inputs) < len(self._inputs):
            attended = self._inputs.keep(inputs)[attended]
        self._row_inputs = np.empty_like(attended)
        self._row_inputs[renamed[kept]] = attended
        self._is_bound = False

    def _bind(self) -> None:
        """Bind all that a step reads and writes."""
        rows = len(self._caches)
        self._ids, self._logits = np.zeros(rows, np.int64), np.empty((rows, 1, self._vocabulary), np.float32)
        self._ordered = np.empty_like(self._logits[:, 0])
        caches = [array[:rows] for array in self._caches.arrays.values()]
        read = {names.INPUT_IDS: self._ids[:, None], names.LENGTHS: self._caches.lengths}
        read |= self._inputs.read(self._row_inputs) | cache_positions(self._caches.capacity)
        written = {names.LOGITS: self._logits, **dict(zip(self._presents, caches, strict=True))}
        if self._choices is not None:
            written |= self._choices.of_decoder(rows)
        self._bound = [read, written]
        _bind_each(self._binding.bind_ortvalue_input, read | dict(zip(self._pasts, caches, strict=True)))
        _bind_each(self._binding.bind_ortvalue_output, written)


def _bind_each(bind: Any, arrays: Mapping[str, NDArray[Any]]) -> None:  # noqa: ANN401 - untyped engine
    for name, array in arrays.items():
        bind(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
