"""Weight-only INT8 and INT4 of the fused form, for ONNX Runtime."""

from pointsman_calib.schemes.weight_only.variant import SOURCE, write_variant

__all__ = ["SOURCE", "write_variant"]
