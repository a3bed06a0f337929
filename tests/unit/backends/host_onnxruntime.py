"""ONNX Runtime's GPU path with the host in the place of the GPU: the same bindings, on addresses of host memory."""

from pathlib import Path

from pointsman import SwitchModel
from pointsman.backends.choice import Choice
from pointsman.backends.gpu.backend import GpuBackend
from pointsman.backends.onnxruntime.cuda import BucketedShapes, RecordedGraph
from pointsman.backends.onnxruntime.session import session
from pointsman.bundle import ROLES, read_manifest
from unit.backends.host_device import HostDevice


def on_the_host(bundle: Path, name: str) -> SwitchModel:
    """A variant, run as on a GPU."""
    manifest = read_manifest(bundle)
    variant = manifest.variants[name]
    graphs = (variant.graph_of_one_position(role) for role in ROLES)
    encoder, decoder = (RecordedGraph(graph, session(bundle / graph.file, "cpu", 1), "cpu") for graph in graphs)
    backend = GpuBackend(HostDevice(), "onnxruntime", variant, (encoder, decoder), BucketedShapes())
    return SwitchModel(manifest, Choice(name, "cuda", "it is a test"), backend)
