"""The best tokens of each row, found on the device, so that only they come to the host."""

from importlib import resources

from pointsman.backends.gpu.device import Device

MOST_SELECTED = 64  # the kernel takes them one after another
_KERNEL = "select_best"
_THREADS = 512  # of a block; a power of two


def kernel_source() -> str:
    """The kernel, in CUDA C++."""
    return resources.files(__package__).joinpath(f"{_KERNEL}.cu").read_text(encoding="utf-8")


class Selector:
    """The kernel, compiled for a device."""

    def __init__(self, device: Device) -> None:
        self._launch = device.compile(kernel_source(), _KERNEL, {"THREADS": _THREADS})

    def enqueue(
        self,
        logits: int,
        named_ids: int,
        results: tuple[int, ...],
        sizes: tuple[int, int, int, int],
        following: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        """Select.

        Args:
            logits: address of float32 [rows, vocabulary]; named ones are overwritten.
            named_ids: address of int32 [rows, named].
            results: addresses of float32 named logits [rows, named], int32 best ids [rows, count], float32 best logits
                [rows, count] and float32 log totals [rows]; see `Selection`.
            sizes: rows, vocabulary, named and count.
            following: addresses of int32 likeliest tokens [rows], named or not, and of int64 ids and lengths [rows] of
                the step that follows: the same tokens, and one more. Zeros where the host says what follows.
        """
        rows, *integers = sizes
        self._launch(rows, (logits, named_ids, *results, *following), tuple(integers))
