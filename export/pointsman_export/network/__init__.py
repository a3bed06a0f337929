"""The reference: a Switch Transformer as small torch modules whose parameter names are the checkpoint's.

Written graphs are compared with it. Everything is float32. Linear weights are stored [in, out], as in the graphs; the
weights of experts are read when tokens reach them. It follows transformers 5.23.0, `modeling_switch_transformers`;
gated experts follow T5 v1.1's `T5DenseGatedActDense`.
"""

from pointsman_export.network.build import Build, Precision, projection_names
from pointsman_export.network.positions import bucket_table, relative_buckets

__all__ = ["Build", "Precision", "bucket_table", "projection_names", "relative_buckets"]
