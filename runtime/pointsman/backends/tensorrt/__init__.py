"""TensorRT and TensorRT-RTX: plans from a bundle, run on one GPU, with everything large kept on it.

    opening.py      from a bundle's records to a backend
    backend.py      encoder, then one decoder step after another: `Backend` and `DecodingState`
    plan.py         one plan: loaded, run, and from the third time of the same run on, replayed
    execution.py    an execution context: given shapes and addresses, and enqueued
    contexts.py     how each library makes contexts
    kernel_cache.py what TensorRT-RTX compiles here, kept from one process to the next
    replays.py      work recorded as CUDA graphs
    validity.py     whether a recorded plan may run here, and if not, what to rebuild
    libraries.py    the Python packages that run plans
    profiles.py     which of a plan's profiles a request takes
    workspace.py    the memory of one request, and what is done in it
    memory.py       device memory that grows, tensors laid out in it, and the cache's two halves
    staging.py      arrays that pass between host and device
    selection.py    the best tokens, found on the device
    device.py       what all of this asks of a GPU
    cuda.py         the GPU, through NVIDIA's own bindings

Only `libraries.py` and `cuda.py` import what needs a GPU or its driver, and only when called.
"""
