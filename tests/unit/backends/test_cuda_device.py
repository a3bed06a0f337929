"""The device through NVIDIA's real bindings, over a stand-in for the driver: every call is made, none reaches a GPU.

Each test runs in a process of its own, since the bindings load a driver once. Error codes are the driver's.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pointsman.backends.gpu.cuda import OUT_OF_MEMORY, compiled
from pointsman.backends.gpu.selection import kernel_source
from pointsman.backends.nvidia import INSTALL_ANY

TESTS = Path(__file__).parents[2]
SETUP = """if True:
    import ctypes, gc
    from pointsman.backends.gpu.cuda import CudaDevice, compute_capability
    from pointsman.backends.gpu.device import CaptureError, Pieces
    from pointsman.backends.gpu.selection import Selector
    from pointsman.errors import DeviceError
    def told(work):
        try:
            print(work())
        except DeviceError as error:
            print(error)
    def said(memory):
        return ctypes.string_at(memory.address, 3)
"""

TOO_OLD = "the NVIDIA driver is too old (TensorRT needs one for CUDA 13); install a newer driver"
INITIALISATION = [
    (
        "cuInit:3",
        "the NVIDIA driver does not start (CUDA_ERROR_NOT_INITIALIZED); see nvidia-smi, or restart the machine",
    ),
    ("cuInit:34", "libcuda is the stub of the CUDA toolkit and no driver; take its folder out of LD_LIBRARY_PATH"),
    ("cuInit:36", TOO_OLD),
    ("cuInit:100", "there is no NVIDIA GPU here (or CUDA_VISIBLE_DEVICES hides it); use device 'cpu'"),
    ("cuInit:227", TOO_OLD),
    ("cuInit:803", "the NVIDIA driver's parts are of different versions; restart the machine"),
    (
        "cuInit:804",
        "CUDA's compatibility package (cuda-compat) does not serve this GPU; remove it, and install a newer driver",
    ),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("host_driver.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", folder / "libcuda.so.1", source, "-ldl"], check=True)
    return folder


def run(driver, code: str, fails: str = "") -> list[str]:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver), "HOST_DRIVER_FAILS": fails}
    command = [sys.executable, "-c", SETUP + "".join(f"    {line}\n" for line in code.strip().splitlines())]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_memory_and_copies(driver):
    code = """
device = CudaDevice()
print(device.name, device.compute_capability, hex(device.stream), compute_capability())
one, two, three = device.allocate_on_host(100), device.allocate(100), device.allocate_on_host(100)
ctypes.memset(one.address, 65, 100)
device.copy(two.address, one.address, 100)
device.copy(three.address, two.address, 100)
device.wait()
print(said(three), one.size)
del one, two, three
"""
    assert run(driver, code) == ["Host GPU 8.9 0x5000 8.9", "b'AAA' 100"]


def test_pieces_are_copied_and_memory_is_cleared(driver):
    """Two groups of three pieces of two bytes, 4 bytes apart in groups that are 16 apart."""
    code = """
device = CudaDevice()
one, two = device.allocate(32), device.allocate(32)
ctypes.memmove(one.address, bytes(range(65, 97)), 32)
device.clear(two.address, 31)
ctypes.memset(two.address + 31, 46, 1)
device.copy_pieces(Pieces(two.address, 16, 4), Pieces(one.address + 1, 12, 3), 2, counts=(2, 3))
device.wait()
print(ctypes.string_at(two.address, 32).replace(bytes(1), b"-").decode())
"""
    assert run(driver, code) == ["BC--EF--HI------NO--QR--TU-----."]


def test_what_is_captured_happens_when_it_is_replayed(driver):
    code = """
device = CudaDevice()
one, two = device.allocate_on_host(10), device.allocate_on_host(10)
ctypes.memset(one.address, 65, 10); ctypes.memset(two.address, 66, 10)
replay = device.capture(lambda: device.copy(two.address, one.address, 10))
print(said(two))
replay()
print(said(two))
ctypes.memset(one.address, 67, 10)
replay()
print(said(two))
del replay
"""
    assert run(driver, code) == ["b'BBB'", "b'AAA'", "b'CCC'"]


@pytest.mark.parametrize("fails", ["cuStreamEndCapture:901", "cuMemcpyAsync:900"])
def test_what_cannot_be_captured(driver, fails):
    code = """
device = CudaDevice()
one = device.allocate(10)
try:
    device.capture(lambda: device.copy(one.address, one.address, 10))
except CaptureError as error:
    print(error)
"""
    (line,) = run(driver, code, fails)
    assert "CUDA_ERROR_STREAM_CAPTURE_" in line


def test_the_kernel_is_loaded_and_launched(driver, tmp_path):
    """It is compiled here: NVRTC looks for a driver, and wants more of one than this stand-in has."""
    image = tmp_path / "image"
    image.write_bytes(compiled(kernel_source(), "8.9", {"THREADS": 512}))
    code = f"""
from pointsman.backends.gpu import cuda
cuda.compiled = lambda source, capability, macros: open({str(image)!r}, "rb").read()
Selector(CudaDevice()).enqueue(0x10000001, 0x2000, (0x3000, 0x4000, 0x7fff00005000, 0x6000), (4, 32128, 17, 8))
"""
    expected = "0x9000 4 1 1 512 1 1 0 0x5000 (nil): 10000001 2000 3000 4000 7fff00005000 6000 0 0 0 32128 17 8"
    assert run(driver, code) == [expected]


@pytest.mark.parametrize(
    ("fails", "sentence"),
    [
        *INITIALISATION,
        ("cuInit:999", "CUDA failed (cuInit: CUDA_ERROR_UNKNOWN); check the GPU with nvidia-smi"),
        ("cuDevicePrimaryCtxRetain:2", OUT_OF_MEMORY),
        ("cuDevicePrimaryCtxRetain:46", "CUDA failed (cuDevicePrimaryCtxRetain: CUDA_ERROR_DEVICE_UNAVAILABLE); check"),
        ("cuMemAlloc_v2:2", OUT_OF_MEMORY),
        ("cuMemAllocHost_v2:2", OUT_OF_MEMORY),
        (
            "cuStreamSynchronize:700",
            "CUDA failed (cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS); check the GPU with",
        ),
    ],
)
def test_each_failure_is_one_line_that_says_what_to_do(driver, fails, sentence):
    code = """
def work():
    device = CudaDevice()
    device.allocate(10), device.allocate_on_host(10), device.wait()
told(work)
"""
    (line,) = run(driver, code, fails)
    assert line.startswith(sentence)


@pytest.mark.parametrize(
    ("fails", "sentence"),
    [
        *INITIALISATION,
        ("", "None"),
        ("cuInit:999", "CUDA failed (cuInit: error 999); check the GPU with nvidia-smi"),
        ("cuDeviceGetCount:803", "the NVIDIA driver's parts are of different versions; restart the machine"),
    ],
)
def test_whether_there_is_a_gpu_is_asked_without_the_bindings(driver, fails, sentence):
    code = "import sys; sys.modules['cuda'] = None\nfrom pointsman.backends import nvidia\nprint(nvidia.missing_gpu())"
    assert run(driver, code, fails) == [sentence]


def test_without_a_driver(tmp_path):
    import ctypes

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("this machine has an NVIDIA driver")
    from pointsman.backends.nvidia import missing_gpu

    assert missing_gpu() == "there is no NVIDIA driver here; install one, or use device 'cpu'"
    for work in ("CudaDevice", "compute_capability"):
        assert run(tmp_path, f"told({work})") == ["there is no NVIDIA driver here; install one, or use device 'cpu'"]


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("cuda", f"cuda-bindings is not installed; {INSTALL_ANY}"),
        ("cuda.bindings", f"cuda-bindings is not installed; {INSTALL_ANY}"),
    ],
)
def test_without_the_bindings(driver, missing, sentence):
    assert run(driver, f"import sys; sys.modules[{missing!r}] = None\ntold(CudaDevice)") == [sentence]
