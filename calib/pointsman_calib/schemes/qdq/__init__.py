"""`int8-qdq`: W8A8 of the portable form, as symmetric QuantizeLinear / DequantizeLinear that TensorRT builds."""

from pointsman_calib.schemes.qdq.scales import DEFAULT, Clipping
from pointsman_calib.schemes.qdq.variant import NAME, SCHEME, SOURCE, write_variant

__all__ = ["DEFAULT", "NAME", "SCHEME", "SOURCE", "Clipping", "write_variant"]
