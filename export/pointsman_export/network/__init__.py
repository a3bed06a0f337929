"""A Switch Transformer as small torch modules whose parameter names are the checkpoint's.

Two things differ from the checkpoint's layout: linear weights are stored [in, out], as ONNX MatMul wants them, and the
experts of a layer are stacked, [experts, in, out]. Modules are built on the meta device: tracing needs no weights.

Numerics: matrix products run in `Precision.compute`; the residual stream, norms, softmax and router stay in float32.
The reference is transformers 5.23.0, `modeling_switch_transformers`; gated experts follow T5 v1.1's
`T5DenseGatedActDense`.
"""

from pointsman_export.network.attention import masked
from pointsman_export.network.block import Block
from pointsman_export.network.build import Build, Precision
from pointsman_export.network.feed_forward import Experts, SparseFeedForward, input_names
from pointsman_export.network.layers import Embedding, Linear, RMSNorm
from pointsman_export.network.positions import bucket_table, relative_buckets

__all__ = [
    "Block",
    "Build",
    "Embedding",
    "Experts",
    "Linear",
    "Precision",
    "RMSNorm",
    "SparseFeedForward",
    "bucket_table",
    "input_names",
    "masked",
    "relative_buckets",
]
