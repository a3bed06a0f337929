"""ONNX Runtime's GPU path with the host in the place of the GPU: the same bindings, on addresses of host memory."""

from pathlib import Path
from typing import Any

from pointsman import SwitchModel
from pointsman.backends.choice import Choice
from pointsman.backends.gpu.backend import GpuBackend
from pointsman.backends.onnxruntime.cuda import BucketedShapes, DeviceModel, RecordedGraph
from pointsman.backends.onnxruntime.models.graphs import BFLOAT16, FLOAT
from pointsman.backends.onnxruntime.session import session
from pointsman.bundle import ROLES, read_manifest
from unit.backends.host_device import HostDevice


class Enqueued:
    """A session whose runs a device does, at once or when they are replayed."""

    def __init__(self, loaded: Any, device: HostDevice) -> None:
        self._loaded, self._device = loaded, device
        self.io_binding = loaded.io_binding

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self._device.submit(lambda: self._loaded.run_with_iobinding(binding, options))


def on_the_host(bundle: Path, name: str, *, own_operators: bool = False) -> SwitchModel:
    """A variant, run as on a GPU; in float32, but where asked for with the operators that bfloat16 has there."""
    manifest = read_manifest(bundle)
    variant = manifest.variants[name]
    device = HostDevice()
    elements = FLOAT if own_operators else BFLOAT16
    given = [DeviceModel.of(bundle, variant, role, elements) for role in ROLES]
    encoder, decoder = (
        RecordedGraph(
            each.graph,
            Enqueued(session(each.path, "cpu", 1, model=each.model, weights=each.weights), device),
            "cpu",
            device,
        )
        for each in given
    )
    encoder.kept, decoder.kept = given  # the CPU reads the weights where they are
    backend = GpuBackend(device, "onnxruntime", variant, (encoder, decoder), BucketedShapes())
    return SwitchModel(manifest, Choice(name, "cuda", "it is a test"), backend)
