"""A variant's two graphs on a GPU as a `Backend`: a request's tensors stay there from the encoder to the last step."""

import weakref
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pointsman.backends.cache_rows import CacheRows
from pointsman.backends.gpu.device import Device
from pointsman.backends.gpu.graphs import DeviceGraph, Shapes, SharedShapes
from pointsman.backends.gpu.selection import MOST_SELECTED, Selector
from pointsman.backends.gpu.shared_steps import GpuStepper
from pointsman.backends.gpu.workspace import Workspace
from pointsman.backends.own_states import OwnStates
from pointsman.bundle import Variant, names
from pointsman.decoding import Selection

_LONGEST_PAUSE: Final = 64  # steps


class GpuBackend:
    """A variant's graphs on a device. One thread at a time may use it.

    Attributes:
        engine: name and version of what runs them.
        device: `cuda`.
        most_positions: see `Backend`.
    """

    def __init__(
        self, device: Device, engine: str, variant: Variant, graphs: tuple[DeviceGraph, DeviceGraph], shapes: Shapes
    ) -> None:
        """Join what was loaded.

        Args:
            device: where the graphs are.
            engine: its name and version.
            variant: whose graphs they are.
            graphs: the encoder's and the decoder's.
            shapes: in which they are run.
        """
        self.engine, self.device = engine, "cuda"
        self.gpu, self.variant = device, variant
        self.encoder, self.decoder = graphs
        self.selector = Selector(device)
        self.most_positions: int | None = 1
        self._shapes = shapes
        self._idle: list[Workspace] = []

    def encode(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], *, rows: int, room: int
    ) -> "GpuState":
        """Run the encoder; see `Backend.encode`.

        Raises:
            OptionsError: the engine does not take as many rows or tokens.
            DeviceError: the device is out of memory, or fails.
        """
        self.gpu.activate()
        batch, source = input_ids.shape
        sizes = self._shapes.of(batch, source, rows // batch, room)
        workspace = self._idle.pop() if self._idle else self._workspace()
        state = GpuState(self, workspace, rows, room=room if rows == batch else 0)
        weakref.finalize(state, self._idle.append, workspace)
        workspace.encode(*_padded(input_ids, attention_mask, sizes), sizes)
        return state

    def stepper(self, *, shared: bool = True) -> GpuStepper | OwnStates:
        """What steps requests together, where the engine takes any shapes; see `Backend.stepper`.

        A request by itself has a state, whose memory the next one finds, and with it what was recorded there.
        """
        if not shared or not isinstance(self._shapes, SharedShapes):
            return OwnStates(self)
        graphs = self.encoder, self.decoder
        return GpuStepper(self.gpu, self.variant, graphs, self.selector, self._shapes)

    def _workspace(self) -> Workspace:
        return Workspace(self.gpu, self.variant, self.encoder, self.decoder, self.selector)


def _padded(
    input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], sizes: dict[str, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and mask in the sizes that are run; an input that is nobody's has one token, since attention needs some."""
    more = [(0, sizes[axis] - size) for axis, size in zip((names.BATCH, names.SOURCE), input_ids.shape, strict=True)]
    ids, mask = np.pad(input_ids, more), np.pad(attention_mask, more)
    mask[len(input_ids) :, 0] = 1
    return ids, mask


class GpuState:
    """A `SelectingState` in a workspace.

    Attributes:
        vocabulary: see `SelectingState`.
        most_selected: see `SelectingState`.
    """

    def __init__(self, backend: GpuBackend, workspace: Workspace, rows: int, *, room: int = 0) -> None:
        """Take a workspace.

        Args:
            backend: whose.
            workspace: whose cache is empty.
            rows: of it, those that are the request's: the first.
            room: tokens up to which steps may be begun ahead.
        """
        self.vocabulary, self.most_selected = workspace.vocabulary, MOST_SELECTED
        self._gpu, self._workspace = backend.gpu, workspace
        self._rows, self._length = CacheRows(rows), 0
        self._ahead = StepsAhead(room)

    @property
    def begun_ids(self) -> NDArray[np.int64] | None:
        """See `StepsAheadOfHost`."""
        return self._ahead.ids

    def step(self, token_ids: NDArray[np.int64], beam_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Feed tokens to every row, one position after another; see `DecodingState.step`."""
        self._follow(beam_rows)
        logits = []
        for position in range(token_ids.shape[1]):
            self._feed(token_ids[:, position])
            logits.append(self._rows.from_places(self._workspace.logits(len(beam_rows))))
            if token_ids.shape[1] > 1:
                logits[-1] = logits[-1].copy()  # the next step overwrites it
        return logits[0][:, None] if len(logits) == 1 else np.stack(logits, axis=1)

    def select(
        self, token_ids: NDArray[np.int64], beam_rows: NDArray[np.int64], named_ids: NDArray[np.int64], count: int
    ) -> Selection:
        """Feed one token to every row; see `SelectingState.select`."""
        self._follow(beam_rows)
        self._feed(token_ids[:, 0])
        goes_on = self._ahead.is_worth_while(self._length)
        found, begun = self._workspace.selected(self._rows.to_places(named_ids), count, goes_on=goes_on)
        self._ahead.ids = None if begun is None else self._rows.from_places(begun)
        return Selection(
            named_logits=self._rows.from_places(found.named_logits),
            best_ids=self._rows.from_places(found.best_ids),
            best_logits=self._rows.from_places(found.best_logits),
            log_total=self._rows.from_places(found.log_total),
        )

    def _follow(self, beam_rows: NDArray[np.int64]) -> None:
        self._gpu.activate()
        if not np.array_equal(beam_rows, np.arange(len(beam_rows))):
            self._ahead.ids = None  # what was begun goes on from other rows
        self._workspace.move(self._rows.follow(beam_rows, self._length), self._length)

    def _feed(self, token_ids: NDArray[np.int64]) -> None:
        """Feed one token to each row, [rows], where that has not been done."""
        if not self._ahead.was_right(token_ids):
            self._workspace.step(self._rows.to_places(token_ids), self._length)
        self._length += 1


class StepsAhead:
    """Steps that begin before the host has said which tokens they are fed: with the likeliest of each row.

    Where the host would have fed the same, the step is under way while the host decides; else it is done once more, in
    the same place of the cache. A guess that fails is followed by steps that are not guessed, each time
    more than twice as many.

    Attributes:
        ids: int64 [rows], what the next step was begun with; None where it was not.
    """

    def __init__(self, room: int) -> None:
        """Begin.

        Args:
            room: tokens that a row is fed, at most: no step begins behind the last.
        """
        self.ids: NDArray[np.int64] | None = None
        self._room, self._pause, self._waits = room, 1, 0

    def is_worth_while(self, length: int) -> bool:
        """Whether to begin a step behind so many tokens; asked once a step."""
        self._waits = max(0, self._waits - 1)
        return length < self._room and not self._waits

    def was_right(self, token_ids: NDArray[np.int64]) -> bool:
        """Whether the step has begun with these tokens, [rows]."""
        if self.ids is None:
            return False
        right = bool((self.ids == token_ids).all())
        self.ids = None
        self._pause = 1 if right else min(2 * self._pause, _LONGEST_PAUSE)
        self._waits = 0 if right else self._pause
        return right
