"""Arrays that pass between host and device, in page-locked memory that is used again and again."""

import ctypes
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pointsman.backends.gpu.device import Device
from pointsman.backends.gpu.memory import Arena, offsets

Layout = tuple[tuple[tuple[int, ...], DTypeLike], ...]
"""Shape and dtype of each array."""


class Staging:
    """Arrays that have the same layout in host memory and on the device."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._on_host, self._on_device = Arena(device, on_host=True), Arena(device)
        self._layout: Layout | None = None

    def place(self, *layout: tuple[tuple[int, ...], DTypeLike]) -> None:
        """Have these arrays from now on; what was in them is lost if they change."""
        if layout == self._layout:
            return
        sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in layout]
        places, self._size = offsets(sizes)
        self._host, self._target = self._on_host.reserve(self._size), self._on_device.reserve(self._size)
        self.arrays = [
            array_at(self._host + place, shape, dtype) for place, (shape, dtype) in zip(places, layout, strict=True)
        ]
        self.addresses = tuple(self._target + place for place in places)
        self._layout = layout

    def upload(self) -> None:
        """Enqueue the copy from host to device; the arrays may be written again after a wait."""
        self._device.copy(self._target, self._host, self._size)

    def fetch(self) -> Callable[[], None]:
        """Enqueue the copy from device to host; the result waits for it, see `Device.mark`."""
        self._device.copy(self._host, self._target, self._size)
        return self._device.mark()

    def download(self) -> None:
        """Copy from device to host, and wait."""
        self.fetch()()


def upload(staging: Staging, arrays: Mapping[str, NDArray[np.int64]]) -> dict[str, int]:
    """Enqueue the copy of arrays to the device; where each lies there."""
    staging.place(*((array.shape, np.int64) for array in arrays.values()))
    for target, array in zip(staging.arrays, arrays.values(), strict=True):
        target[:] = array
    staging.upload()
    return dict(zip(arrays, staging.addresses, strict=True))


def array_at(address: int, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """The array that lies at an address of the host; it does not keep the memory."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not size:
        return np.empty(shape, dtype)
    memory = (ctypes.c_ubyte * size).from_address(address)
    return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
