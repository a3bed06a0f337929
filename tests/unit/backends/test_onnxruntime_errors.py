"""What ONNX Runtime cannot do, in one line that says what to do."""

import shutil

import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

from places import EXAMPLES
from pointsman import SwitchModel
from pointsman.errors import BundleError, DeviceError
from unit.backends.conftest import VARIANT


class Failing:
    """A session whose runs end in an error of the engine's."""

    def __init__(self, session, error) -> None:
        self.session, self.error = session, error

    def io_binding(self):
        return self.session.io_binding()

    def run_with_iobinding(self, binding, options):
        raise self.error


@pytest.fixture
def model(exported):
    return SwitchModel.load(exported, device="cpu", variant=VARIANT, threads=1, verify=False)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeException(
            "[ONNXRuntimeError] : 6 : bfc_arena.cc:376: Failed to allocate memory for requested buffer of size 8"
        ),
        RuntimeException("CUDA failure 2: out of memory ; GPU=0 ; hostname=a ; expr=cudaMalloc((void**)&p, size)"),
    ],
    ids=["arena", "cuda"],
)
def test_out_of_memory(model, side, error):
    setattr(model.backend, side, Failing(getattr(model.backend, side), error))
    told = "this machine is out of memory; ask for fewer inputs or beams at a time, or use a smaller precision"
    with pytest.raises(DeviceError, match=told):
        model.generate([[5, 1]])


def test_other_failures_stay_what_they_are(model):
    model.backend.decoder = Failing(model.backend.decoder, Fail("Non-zero status code returned while running MatMul"))
    with pytest.raises(Fail, match="MatMul"):
        model.generate([[5, 1]])


def test_a_graph_that_does_not_fit(exported, monkeypatch):
    def full(*arguments, **keywords):
        raise RuntimeException("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc")

    monkeypatch.setattr("onnxruntime.InferenceSession", full)
    with pytest.raises(DeviceError, match="this machine is out of memory"):
        SwitchModel.load(exported, device="cpu", variant=VARIANT, verify=False)


def test_weights_under_two_names(tmp_path):
    """As a backup of hard links makes them: ONNX Runtime takes them for an attack."""
    copied = shutil.copytree(EXAMPLES / "demo_int8", tmp_path / "copied")
    SwitchModel.load(copied, device="cpu").close()
    (tmp_path / "backup.bin").hardlink_to(copied / "variants/int8/weights.bin")
    with pytest.raises(BundleError, match="has several hard links"):
        SwitchModel.load(copied, device="cpu")
