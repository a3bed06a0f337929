"""What a machine has of NVIDIA: the driver, asked itself before any engine is loaded, and the packages that run plans.

Each thing that is missing or fails is a sentence that says what to do.
"""

import ctypes
import sys

from pointsman.bundle import Flavour

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
_EXTRAS: dict[Flavour, str] = {
    "tensorrt": "pointsman[tensorrt], whose wheels NVIDIA's own index holds (docs/gpu.md says how)",
    "tensorrt-rtx": "pointsman[tensorrt-rtx]",
}
INSTALL: dict[Flavour, str] = {flavour: f"install {extra}" for flavour, extra in _EXTRAS.items()}
INSTALL_EITHER = f"install {_EXTRAS['tensorrt-rtx']}, or {_EXTRAS['tensorrt']}"
INSTALL_ANY = f"install pointsman[gpu], {_EXTRAS['tensorrt-rtx']}, or {_EXTRAS['tensorrt']}"


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
