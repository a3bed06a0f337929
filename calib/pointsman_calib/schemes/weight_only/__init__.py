"""Weight-only INT8 and INT4 of the fused form, for ONNX Runtime."""

from pointsman_calib.schemes.weight_only.variant import SOURCES, write_variant

__all__ = ["SOURCES", "write_variant"]
