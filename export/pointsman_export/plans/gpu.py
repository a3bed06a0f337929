"""Which GPU is here, asked of NVIDIA's driver."""

import ctypes

from pointsman.backends.nvidia import DRIVER, NO_DRIVER, NO_GPU, missing_gpu
from pointsman.errors import DeviceError

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{MAJOR,MINOR} in cuda.h


def compute_capability() -> str | None:
    """Compute capability of the first GPU that CUDA shows, such as "8.9"; None where there is no driver or no GPU.

    Raises:
        DeviceError: the driver fails.
    """
    missing = missing_gpu()
    if missing in {NO_DRIVER, NO_GPU}:
        return None
    if missing:
        raise DeviceError(missing)
    driver = ctypes.CDLL(DRIVER)
    major, minor = (_attribute(driver, number) for number in (_MAJOR, _MINOR))
    return f"{major}.{minor}"


def _attribute(driver: ctypes.CDLL, number: int) -> int:
    value, device = ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetAttribute(ctypes.byref(value), number, device)
    return value.value
