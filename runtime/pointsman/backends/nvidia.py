"""What a machine has of NVIDIA: the driver, asked itself before any engine is loaded, and the packages that run plans.

Each thing that is missing or fails is a sentence that says what to do.
"""

import ctypes
import sys

from pointsman.bundle import Flavour
from pointsman.wording import install

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
NO_DRIVER = "there is no NVIDIA driver here; install one, or use device 'cpu'"
NO_GPU = "there is no NVIDIA GPU here (or CUDA_VISIBLE_DEVICES hides it); use device 'cpu'"
_NEWER = "install a newer driver"
_TOO_OLD = f"the NVIDIA driver is too old (TensorRT needs one for CUDA 13); {_NEWER}"
# By the codes of CUresult in cuda.h.
_FAILURES = {
    3: "the NVIDIA driver does not start (CUDA_ERROR_NOT_INITIALIZED); see nvidia-smi, or restart the machine",
    34: "libcuda is the stub of the CUDA toolkit and no driver; take its folder out of LD_LIBRARY_PATH",
    36: _TOO_OLD,
    100: NO_GPU,
    227: _TOO_OLD,
    803: "the NVIDIA driver's parts are of different versions; restart the machine",
    804: f"CUDA's compatibility package (cuda-compat) does not serve this GPU; remove it, and {_NEWER}",
}
_NVIDIAS_INDEX = " (NVIDIA's own index holds the wheels of tensorrt; docs/gpu.md says how)"
INSTALL: dict[Flavour, str] = {
    "tensorrt": install("tensorrt") + _NVIDIAS_INDEX,
    "tensorrt-rtx": install("tensorrt-rtx"),
}
INSTALL_EITHER = install("tensorrt-rtx", "tensorrt") + _NVIDIAS_INDEX
INSTALL_ANY = install("gpu", "tensorrt-rtx", "tensorrt") + _NVIDIAS_INDEX


def missing_gpu() -> str | None:
    """What is missing or fails, and what to do; None where there is a GPU."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return NO_DRIVER
    count = ctypes.c_int()
    for function, arguments in (("cuInit", (0,)), ("cuDeviceGetCount", (ctypes.byref(count),))):
        code = getattr(driver, function)(*arguments)
        if code:
            return failure(code, f"{function}: error {code}")
    return None if count.value else NO_GPU


def failure(code: int, what: str) -> str:
    """What an error code of the driver means, and what to do.

    Args:
        code: of CUresult.
        what: failed, for codes that nothing more is known of.
    """
    return _FAILURES.get(code, f"CUDA failed ({what}); check the GPU with nvidia-smi")
