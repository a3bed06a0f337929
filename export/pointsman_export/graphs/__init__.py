"""torch modules to ONNX graphs over one external-data file."""
