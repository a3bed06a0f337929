"""Whether there is an NVIDIA GPU: asked of the driver itself, before any engine is loaded."""

import ctypes
import sys

NO_DRIVER = "there is no NVIDIA driver here; install one, or use device 'cpu'"
NO_GPU = "there is no NVIDIA GPU here (or CUDA_VISIBLE_DEVICES hides it); use device 'cpu'"


def missing_gpu() -> str | None:
    """What is missing, and what to do; None where there is a GPU."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return NO_DRIVER
    count = ctypes.c_int()
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return None if not failed and count.value else NO_GPU
