"""ONNX Runtime, on the CPU and on CUDA.

    backend.py   encoder, then one decoder step after another: `Backend` and `DecodingState`
    caches.py    a request's self-attention cache, in host memory or on the device
    gathering.py the one graph that is not a bundle's: rows of caches, gathered on the device
    session.py   graphs loaded and run; what the engine says turned into sentences

Tensors that are large stay where the engine has them: cross-attention keys and values are bound once per request, and
steps write into the cache in place.
"""

from pointsman.backends.onnxruntime.backend import OnnxRuntimeBackend
from pointsman.backends.onnxruntime.session import why_not_cuda

__all__ = ["OnnxRuntimeBackend", "why_not_cuda"]
