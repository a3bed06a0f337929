"""Work recorded as CUDA graphs: what is done again with the same shapes and addresses is replayed as a whole."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

from pointsman.backends.tensorrt.device import CaptureError, Device

MOST = 256  # recordings kept; each takes some device memory


class Replays:
    """The recordings of one plan, those used last kept longest.

    What is done once is only done. The second time it is also recorded, after it was done: engines settle into new
    shapes when they run. From the third time on it is replayed.

    Attributes:
        refusal: why nothing is recorded any more; None where recording works.
    """

    def __init__(self, device: Device, most: int = MOST) -> None:
        self._device, self._most = device, most
        self._known: OrderedDict[Hashable, Callable[[], None] | None] = OrderedDict()
        self.refusal: str | None = None

    def run(self, key: Hashable, prepare: Callable[[], None], enqueue: Callable[[], bool]) -> None:
        """Do a piece of work.

        Args:
            key: all that the work depends on but the bytes it reads.
            prepare: has to be called before `enqueue`.
            enqueue: gives the work to the device's stream; returns whether it could be recorded now.
        """
        replay = self._known.get(key)
        if replay is not None:
            self._known.move_to_end(key)
            replay()
            return
        prepare()
        recordable = enqueue()
        again = key in self._known and recordable and self.refusal is None
        self._remember(key, self._recorded(enqueue) if again else None)

    def _recorded(self, enqueue: Callable[[], bool]) -> Callable[[], None] | None:
        try:
            return self._device.capture(enqueue)
        except CaptureError as error:
            self.refusal = str(error)
            return None

    def _remember(self, key: Hashable, replay: Callable[[], None] | None) -> None:
        self._known[key] = replay
        self._known.move_to_end(key)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
