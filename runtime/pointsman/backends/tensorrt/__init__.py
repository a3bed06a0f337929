"""TensorRT and TensorRT-RTX: plans from a bundle, run on one GPU, with everything large kept on it.

    backend.py      encoder, then one decoder step after another: `Backend` and `DecodingState`
    plan.py         one plan: loaded, given shapes and addresses, run, and replayed as a CUDA graph
    validity.py     whether a recorded plan may run here, and if not, what to rebuild
    libraries.py    the Python packages that run plans
    profiles.py     which of a plan's profiles a request takes
    memory.py       device memory that grows, tensors laid out in it, and the cache's two halves
    selection.py    the best tokens, found on the device
    device.py       what all of this asks of a GPU
    cuda.py         the GPU, through NVIDIA's own bindings

Only `libraries.py` and `cuda.py` import what needs a GPU or its driver, and only when called.
"""
