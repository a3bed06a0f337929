"""Original checkpoints, as T5X wrote them: a msgpack file and a zarr folder for each array. Read without JAX.

Tensors go by the names, and lie in the orientation, of Hugging Face's layout. An expert is read out of the array that
stacks all of them, of which no more than one chunk's part is in memory at a time.
"""

from pointsman_export.checkpoint.t5x.folder import config, has_arrays, is_here, listing, numbered

__all__ = ["config", "has_arrays", "is_here", "listing", "numbered"]
