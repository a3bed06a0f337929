"""Requests on one GPU, whatever runs the graphs: everything large stays there from the encoder to the last step.

    backend.py      encoder, then one decoder step after another: `Backend` and `DecodingState`
    graphs.py       what is asked of an engine: to run a graph at addresses, and to say in which shapes
    workspace.py    the memory of one request, and what is done in it
    shared_steps.py the rows of many requests in one step
    slots.py        tensors with a slot for each input or row: caches, and what was encoded
    memory.py       device memory that grows, and tensors laid out in it
    staging.py      arrays that pass between host and device
    selection.py    the best tokens, found on the device
    replays.py      work recorded as CUDA graphs
    device.py       what all of this asks of a GPU
    cuda.py         the GPU, through NVIDIA's own bindings

Only `cuda.py` imports what needs a driver, and only when it is asked for a GPU.
"""
