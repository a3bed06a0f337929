"""ONNX Runtime, on the CPU and on CUDA.

    backend.py   on the CPU: encoder, then one decoder step after another: `Backend` and `DecodingState`
    host/        requests that share steps there: caches and what is encoded, in host memory
    cuda.py      on CUDA: graphs run at addresses of the device, and replayed
    choices.py   how many tokens every expert is sent
    routing.py   a backend that also shows the routers' choices
    session.py   graphs loaded and run; what the engine says turned into sentences
    models/      serialized graphs read and changed, for processors and devices that want other nodes
    weights/     where weights come from, and what of them stays in memory

Cross-attention keys and values are bound once per request, and steps write into the cache in place.
"""

from pointsman.backends.onnxruntime.backend import OnnxRuntimeBackend
from pointsman.backends.onnxruntime.cuda import open_on_cuda
from pointsman.backends.onnxruntime.routing import RoutedBackend
from pointsman.backends.onnxruntime.session import why_not_cuda

__all__ = ["OnnxRuntimeBackend", "RoutedBackend", "open_on_cuda", "why_not_cuda"]
