"""The first GPU, through NVIDIA's own bindings of the CUDA driver, which are imported when a GPU is asked for."""

import contextlib
import ctypes
import importlib
import weakref
from collections.abc import Callable
from typing import Any

from pointsman.backends.base import ASK_FOR_LESS
from pointsman.backends.gpu.device import CaptureError, Launch, Memory, Pieces
from pointsman.backends.nvidia import INSTALL_ANY, NO_DRIVER, failure
from pointsman.errors import DeviceError

OUT_OF_MEMORY = f"the GPU is out of memory; {ASK_FOR_LESS}"


def compute_capability() -> str:
    """Of the first GPU, such as "8.9"; no context is made.

    Raises:
        DeviceError: there is no GPU, no driver, or no bindings.
    """
    return _Driver().compute_capability


class _Driver:
    """The driver's functions, whose failures become errors, and its first GPU.

    Attributes:
        handle: of the GPU.
        compute_capability: such as "8.9".
    """

    def __init__(self) -> None:
        self.api = _bindings("driver")
        try:
            self("cuInit", 0)
        except RuntimeError as error:  # of the bindings, where libcuda is not there
            if isinstance(error, DeviceError):
                raise
            raise DeviceError(NO_DRIVER) from error
        self.handle = self("cuDeviceGet", 0)
        self.compute_capability = f"{self._capability('MAJOR')}.{self._capability('MINOR')}"

    def __call__(self, function: str, *arguments: Any) -> Any:  # noqa: ANN401 - each function has its own
        status, *results = getattr(self.api, function)(*arguments)
        if status != self.api.CUresult.CUDA_SUCCESS:
            if status == self.api.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
                raise DeviceError(OUT_OF_MEMORY)
            raise DeviceError(failure(int(status), f"{function}: {self.api.CUresult(status).name}"))
        return results[0] if len(results) == 1 else None

    def _capability(self, part: str) -> int:
        attribute = getattr(self.api.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{part}")
        number: int = self("cuDeviceGetAttribute", attribute, self.handle)
        return number


class _Allocation:
    """Memory that is given back when the object goes."""

    def __init__(self, driver: _Driver, size: int, *, on_host: bool) -> None:
        allocate, free = ("cuMemAllocHost", "cuMemFreeHost") if on_host else ("cuMemAlloc", "cuMemFree")
        pointer = driver(allocate, size)
        self.address, self.size = int(pointer), size
        weakref.finalize(self, _give_back, driver, free, pointer)


def _give_back(driver: _Driver, function: str, handle: object) -> None:
    """Free something; where the process ends, the driver may have done so before."""
    with contextlib.suppress(DeviceError):
        driver(function, handle)


class CudaDevice:
    """The first GPU; see `Device`."""

    def __init__(self) -> None:
        """Make a context and a stream.

        Raises:
            DeviceError: there is no GPU, no driver, or no bindings, or it cannot be used.
        """
        self._driver = _Driver()
        self._context = self._driver("cuDevicePrimaryCtxRetain", self._driver.handle)
        self.activate()
        self._stream = self._driver("cuStreamCreate", int(self._driver.api.CUstream_flags.CU_STREAM_NON_BLOCKING))
        self.stream = int(self._stream)
        self._mark = self._driver("cuEventCreate", int(self._driver.api.CUevent_flags.CU_EVENT_DISABLE_TIMING))
        self.compute_capability = self._driver.compute_capability
        self.name: str = self._driver("cuDeviceGetName", 128, self._driver.handle).split(b"\0")[0].decode()

    def activate(self) -> None:
        """See `Device.activate`."""
        self._driver("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> Memory:
        """See `Device.allocate`."""
        return _Allocation(self._driver, size, on_host=False)

    def allocate_on_host(self, size: int) -> Memory:
        """See `Device.allocate_on_host`."""
        return _Allocation(self._driver, size, on_host=True)

    def copy(self, target: int, source: int, size: int) -> None:
        """See `Device.copy`; the driver knows host addresses from device addresses."""
        self._driver("cuMemcpyAsync", target, source, size, self._stream)

    def copy_pieces(self, target: Pieces, source: Pieces, size: int, *, counts: tuple[int, int]) -> None:
        """See `Device.copy_pieces`: a copy between boxes, of which a piece is a line and a group a slice."""
        slices, lines = counts
        box = self._driver.api.CUDA_MEMCPY3D()
        box.srcMemoryType = box.dstMemoryType = self._driver.api.CUmemorytype.CU_MEMORYTYPE_DEVICE
        box.dstDevice, box.srcDevice = target.address, source.address
        box.dstPitch, box.srcPitch = target.piece, source.piece
        box.dstHeight, box.srcHeight = target.group // target.piece, source.group // source.piece
        box.WidthInBytes, box.Height, box.Depth = size, lines, slices
        self._driver("cuMemcpy3DAsync", box, self._stream)

    def clear(self, address: int, size: int) -> None:
        """See `Device.clear`."""
        self._driver("cuMemsetD8Async", address, 0, size, self._stream)

    def wait(self) -> None:
        """See `Device.wait`."""
        self._driver("cuStreamSynchronize", self._stream)

    def mark(self) -> Callable[[], None]:
        """See `Device.mark`."""
        self._driver("cuEventRecord", self._mark, self._stream)
        return lambda: self._driver("cuEventSynchronize", self._mark)

    def capture(self, enqueue: Callable[[], object]) -> Callable[[], None]:
        """See `Device.capture`."""
        mode = self._driver.api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        try:
            self._driver("cuStreamBeginCapture", self._stream, mode)
            graph = self._captured(enqueue)
            executable = self._driver("cuGraphInstantiate", graph, 0)
            self._driver("cuGraphDestroy", graph)
        except DeviceError as error:
            raise CaptureError(str(error)) from error
        return _Replay(self._driver, executable, self._stream)

    def _captured(self, enqueue: Callable[[], object]) -> Any:  # noqa: ANN401 - the driver's
        try:
            enqueue()
        except Exception:
            with contextlib.suppress(DeviceError):  # what is recorded so far is of no use
                self._driver("cuStreamEndCapture", self._stream)
            raise
        return self._driver("cuStreamEndCapture", self._stream)

    def compile(self, source: str, kernel: str, macros: dict[str, int]) -> Launch:
        """See `Device.compile`; blocks have as many threads as the macro THREADS says."""
        image = compiled(source, self.compute_capability, macros)
        module = self._driver("cuModuleLoadData", image)
        function = self._driver("cuModuleGetFunction", module, kernel.encode())
        threads = macros["THREADS"]

        def launch(blocks: int, addresses: tuple[int, ...], integers: tuple[int, ...]) -> None:
            kinds = (ctypes.c_void_p,) * len(addresses) + (ctypes.c_int,) * len(integers)
            size = (blocks, 1, 1, threads, 1, 1, 0)
            self._driver("cuLaunchKernel", function, *size, self._stream, ((*addresses, *integers), kinds), 0)

        return launch


class _Replay:
    """A recorded graph; calling it enqueues all of it."""

    def __init__(self, driver: _Driver, executable: object, stream: object) -> None:
        self._driver, self._executable, self._stream = driver, executable, stream
        weakref.finalize(self, _give_back, driver, "cuGraphExecDestroy", executable)

    def __call__(self) -> None:
        self._driver("cuGraphLaunch", self._executable, self._stream)


def compiled(source: str, compute_capability: str, macros: dict[str, int]) -> bytes:
    """Machine code of CUDA C++ for one compute capability; this needs the compiler and no GPU.

    Raises:
        DeviceError: the compiler is not installed, or refuses.
    """
    nvrtc = _bindings("nvrtc")
    options = [f"--gpu-architecture=sm_{compute_capability.replace('.', '')}"]
    options += [f"--define-macro={name}={value}" for name, value in macros.items()]
    try:
        status, program = nvrtc.nvrtcCreateProgram(source.encode(), b"kernel.cu", 0, [], [])
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    except RuntimeError as error:  # of the bindings, where libnvrtc is not there
        raise DeviceError(f"nvidia-cuda-nvrtc is not installed; {INSTALL_ANY}") from error
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise DeviceError(
            f"NVRTC cannot compile for compute capability {compute_capability} ({status.name}); {INSTALL_ANY}"
        )
    image = bytes(nvrtc.nvrtcGetCUBINSize(program)[1])
    nvrtc.nvrtcGetCUBIN(program, image)  # writes into it
    nvrtc.nvrtcDestroyProgram(program)
    return image


def _bindings(module: str) -> Any:  # noqa: ANN401 - untyped
    try:
        return importlib.import_module(f"cuda.bindings.{module}")
    except ModuleNotFoundError as error:
        raise DeviceError(f"cuda-bindings is not installed; {INSTALL_ANY}") from error
