"""Which library builds, for which GPUs, and how its builder is configured."""

import importlib.machinery
import json
import subprocess
import sys
import types

import pytest

from plans import without_gpu
from pointsman.errors import DependencyError, DeviceError, OptionsError
from pointsman_export.plans.gpu import compute_capability
from pointsman_export.plans.library import Library, load_library

CONFIGURED = """
import json, sys
from pathlib import Path
from threading import Event
from pointsman.bundle import PlanOptions
from pointsman_export.plans.callbacks import progress_monitor
from pointsman_export.plans.library import load_library
from pointsman_export.plans.compile import PlanRequest, configuration
options = PlanOptions(**json.loads(sys.argv[1]))
library = load_library("tensorrt-rtx")
from polygraphy.backend.trt import create_network
request = PlanRequest(
    graph=Path(), inputs=(), profiles=(), options=options, compute_capability="12.0", timing_cache=None
)
builder, network = create_network(strongly_typed=True)
config = configuration(library, request, progress_monitor(library.trt, Event()))(builder, network)
flags = [name for name, flag in library.trt.BuilderFlag.__members__.items() if config.get_flag(flag)]
print(json.dumps([flags, config.num_compute_capabilities, config.get_compute_capability(0).name]))
"""
LOADING = """
import sys
from pointsman.errors import DependencyError
from pointsman_export.plans.library import load_library
sys.path.insert(0, sys.argv[2])
try:
    load_library(sys.argv[1])
except DependencyError as error:
    print(error)
"""
RTX = "run pip install '.[tensorrt-rtx]' in a checkout of Pointsman"
NVIDIAS_INDEX = "(NVIDIA's own index holds the wheels of tensorrt; docs/gpu.md says how)"
TENSORRT = f"run pip install '.[tensorrt]' in a checkout of Pointsman {NVIDIAS_INDEX}"
TWO_IN_ONE_PROCESS = """
import polygraphy.config
from pointsman_export.plans.library import load_library
load_library("tensorrt-rtx")
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({}, set()),
        ({"weight_streaming": True}, {"WEIGHT_STREAMING"}),
        ({"refittable": True}, {"REFIT"}),
        ({"version_compatible": True}, {"VERSION_COMPATIBLE"}),
    ],
)
def test_a_builder_is_configured_for_one_gpu_and_without_tf32(options, flags):
    plain = {"weight_streaming": False, "refittable": False, "version_compatible": False}
    done = python(CONFIGURED, json.dumps(plain | options))
    assert done.returncode == 0, done.stderr
    found, capabilities, name = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == flags
    assert (capabilities, name) == (1, "SM120")


def test_polygraphy_serves_one_library_in_a_process():
    done = python(TWO_IN_ONE_PROCESS)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "DeviceError: Polygraphy serves another library in this process; use tensorrt-rtx in a process of its own"
    )


@pytest.fixture
def lacking(monkeypatch):
    """Makes packages look as if they were not installed."""

    def lack(*names):
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)

    return lack


def test_no_library_is_installed(lacking):
    lacking("tensorrt", "tensorrt_rtx")
    line = (
        "neither tensorrt nor tensorrt-rtx is installed; run pip install '.[tensorrt-rtx]', or pip install "
        f"'.[tensorrt]' in a checkout of Pointsman {NVIDIAS_INDEX}"
    )
    with pytest.raises(DependencyError) as caught:
        load_library(None)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("flavour", "name", "install"),
    [
        ("tensorrt-rtx", "tensorrt_rtx", RTX),
        ("tensorrt-rtx", "polygraphy", RTX),
        ("tensorrt", "tensorrt", TENSORRT),
    ],
)
def test_a_package_is_not_installed(lacking, flavour, name, install):
    lacking(name)
    with pytest.raises(DependencyError) as caught:
        load_library(flavour)
    assert str(caught.value) == f"{name} is not installed; {install}"


@pytest.mark.parametrize(("flavour", "install"), [("tensorrt-rtx", RTX), ("tensorrt", TENSORRT)])
def test_a_library_that_does_not_load(tmp_path, flavour, install):
    for name in ("tensorrt", "tensorrt_rtx"):
        (tmp_path / f"{name}.py").write_text("raise OSError('libnvinfer.so: cannot open shared object file')")
    done = python(LOADING, flavour, str(tmp_path))
    assert done.stdout == (
        f"{flavour} cannot be loaded (libnvinfer.so: cannot open shared object file); remove it, and {install}\n"
    ), done.stderr


def test_both_are_installed(monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(
        OptionsError, match=r"^both tensorrt and tensorrt-rtx are installed; choose one, as with `flavour='tensorrt'`$"
    ):
        load_library(None)


@without_gpu
def test_tensorrt_builds_where_its_gpu_is():
    assert compute_capability() is None
    with pytest.raises(DeviceError) as caught:
        Library("tensorrt", types.ModuleType("tensorrt")).targets(())
    assert str(caught.value) == (
        "tensorrt builds plans on the GPU that they are for, and there is no NVIDIA GPU here; "
        "build there, or ahead of time with `flavour='tensorrt-rtx'`"
    )


def test_a_gpu_that_is_named_twice_is_built_for_once():
    members = types.SimpleNamespace(__members__={"NONE": 0, "CURRENT": 1, "SM75": 2, "SM120": 3, "SM89": 4})
    module = types.ModuleType("tensorrt_rtx")
    module.ComputeCapability = members
    module.__version__ = "1.0"
    library = Library("tensorrt-rtx", module)
    assert library.targets(("12.0", "8.9", "12.0")) == ("12.0", "8.9")
    with pytest.raises(DeviceError, match=r"^tensorrt-rtx 1.0 does not build .* 9.0; it builds for 7.5, 8.9, 12.0$"):
        library.targets(("9.0",))
