"""`int8-qdq`: W8A8 of the portable form, as symmetric QuantizeLinear / DequantizeLinear that TensorRT builds."""

from pointsman_calib.schemes.qdq.scales import DEFAULT_METHOD
from pointsman_calib.schemes.qdq.variant import SCHEME, SOURCE, write_variant

__all__ = ["DEFAULT_METHOD", "SCHEME", "SOURCE", "write_variant"]
