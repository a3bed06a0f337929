"""A variant's two plans as a `Backend`: a request's tensors stay on the device from the encoder to the last step."""

import weakref

import numpy as np
from numpy.typing import NDArray

from pointsman.backends.cache_rows import CacheRows
from pointsman.backends.own_states import OwnStates
from pointsman.backends.tensorrt.device import Device
from pointsman.backends.tensorrt.plan import Plan
from pointsman.backends.tensorrt.profiles import largest, profile_for
from pointsman.backends.tensorrt.selection import MOST_SELECTED, Selector
from pointsman.backends.tensorrt.workspace import Workspace
from pointsman.bundle import PlanRecord, Variant, names
from pointsman.decoding import Selection

_SOURCE_STEP = 32  # tokens; inputs are padded to a multiple, so that fewer shapes occur and more steps are replayed


class TensorRTBackend:
    """A variant's plans on a device. One thread at a time may use it.

    Attributes:
        engine: name and version of the library.
        device: `cuda`.
    """

    def __init__(
        self,
        device: Device,
        name: str,
        variant: Variant,
        plans: tuple[Plan, Plan],
        records: tuple[PlanRecord, PlanRecord],
    ) -> None:
        """Join what was loaded.

        Args:
            device: where the plans are.
            name: of the library, with its version.
            variant: whose plans they are.
            plans: the encoder's and the decoder's.
            records: theirs.
        """
        self.engine, self.device = name, "cuda"
        self.gpu, self.variant = device, variant
        self.encoder, self.decoder = plans
        self._encoder_record, self._decoder_record = records
        self.selector = Selector(device)
        self._idle: list[Workspace] = []

    def encode(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], *, rows: int, room: int
    ) -> "TensorRTState":
        """Run the encoder; see `Backend.encode`.

        Raises:
            OptionsError: the plans were not built for as many rows or tokens.
            DeviceError: the device is out of memory, or fails.
        """
        self.gpu.activate()
        batch, source = input_ids.shape
        longest = self._padded(source)
        width, capacity = rows // batch, max(largest(self._decoder_record.profiles, names.CAPACITY), room)
        sizes = {names.BATCH: batch, names.SOURCE: longest, names.ROWS: rows, names.POSITIONS: 1}
        sizes |= {names.WIDTH: width, names.CAPACITY: capacity}
        for record in (self._decoder_record, self._encoder_record):
            profile_for(record.profiles, sizes)
        workspace = self._idle.pop() if self._idle else self._workspace()
        state = TensorRTState(self, workspace, sizes)
        weakref.finalize(state, self._idle.append, workspace)
        padding = ((0, 0), (0, longest - source))
        workspace.encode(np.pad(input_ids, padding), np.pad(attention_mask, padding), sizes)
        return state

    def stepper(self) -> OwnStates:
        """What steps requests one after another; see `Backend.stepper`."""
        return OwnStates(self)

    def _workspace(self) -> Workspace:
        return Workspace(self.gpu, self.variant, self.encoder, self.decoder, self.selector)

    def _padded(self, source: int) -> int:
        records = (self._encoder_record, self._decoder_record)
        room = min(largest(record.profiles, names.SOURCE) for record in records)
        return max(source, min(-(-source // _SOURCE_STEP) * _SOURCE_STEP, room))


class TensorRTState:
    """A `SelectingState` in a workspace.

    Attributes:
        vocabulary: see `SelectingState`.
        most_selected: see `SelectingState`.
    """

    def __init__(self, backend: TensorRTBackend, workspace: Workspace, sizes: dict[str, int]) -> None:
        """Take a workspace.

        Args:
            backend: whose.
            workspace: whose cache is empty.
            sizes: of the dynamic axes.
        """
        self.vocabulary, self.most_selected = workspace.vocabulary, MOST_SELECTED
        self._gpu, self._workspace, self._sizes = backend.gpu, workspace, sizes
        self._rows, self._length = CacheRows(sizes[names.ROWS]), 0

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
        found = self._workspace.selected(self._rows.to_places(named_ids), count)
        return Selection(
            named_logits=self._rows.from_places(found.named_logits),
            best_ids=self._rows.from_places(found.best_ids),
            best_logits=self._rows.from_places(found.best_logits),
            log_total=self._rows.from_places(found.log_total),
        )

    def _follow(self, beam_rows: NDArray[np.int64]) -> None:
        self._gpu.activate()
        self._workspace.move(self._rows.follow(beam_rows, self._length), self._length)

    def _feed(self, token_ids: NDArray[np.int64]) -> None:
        """Feed one token to each row, [rows]."""
        self._workspace.step(self._rows.to_places(token_ids), self._length, self._sizes)
        self._length += 1
