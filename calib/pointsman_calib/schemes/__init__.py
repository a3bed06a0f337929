"""The quantization schemes: weight-only for ONNX Runtime, Q/DQ for TensorRT."""
