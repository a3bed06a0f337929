"""TensorRT and TensorRT-RTX: plans from a bundle, run on one GPU, with everything large kept on it.

    opening.py      from a bundle's records to a backend
    plan.py         one plan: loaded, run, and from the third time of the same run on, replayed
    execution.py    an execution context: given shapes and addresses, and enqueued
    contexts.py     how each library makes contexts
    kernel_cache.py what TensorRT-RTX compiles here, kept from one process to the next
    validity.py     whether a recorded plan may run here, and if not, what to rebuild
    libraries.py    the Python packages that run plans
    profiles.py     which of a plan's profiles a request takes, in which shapes

Only `libraries.py` imports what needs a GPU, and only when called.
"""
