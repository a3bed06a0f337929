"""Work recorded as CUDA graphs: what is done again with the same shapes and addresses is replayed as a whole."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

from pointsman.backends.gpu.device import CaptureError
from pointsman.errors import DeviceError

MOST = 16  # recordings kept; each takes some memory, of the host and of the device


class Replays:
    """The recordings of one plan, those used last kept longest.

    What is done once is only done. The second time it is recorded too, and from the third time on it is replayed.

    Attributes:
        refusal: why nothing is recorded any more; None where recording works.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: OrderedDict[Hashable, Callable[[], None] | None] = OrderedDict()
        self.refusal: str | None = None

    def run(self, key: Hashable, do: Callable[[], None], record: Callable[[], Callable[[], None]]) -> None:
        """Do a piece of work.

        Args:
            key: all that the work depends on but the bytes it reads.
            do: does it.
            record: records it, and returns what does it again; it may do the work, too, since nothing is changed by
                doing it twice.
        """
        replay = self._known.get(key)
        if replay is not None:
            self._known.move_to_end(key)
            replay()
            return
        do()
        if self.refusal is None:  # or else what is recorded would give way to what is not
            self._remember(key, self._recorded(record) if key in self._known else None)

    def _recorded(self, record: Callable[[], Callable[[], None]]) -> Callable[[], None] | None:
        try:
            return record()
        except (CaptureError, DeviceError) as error:  # such as no memory for it: the work itself is done
            self.refusal = str(error)
            return None

    def _remember(self, key: Hashable, replay: Callable[[], None] | None) -> None:
        self._known[key] = replay
        self._known.move_to_end(key)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
