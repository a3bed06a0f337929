"""Export Switch Transformers checkpoints to ONNX bundles."""
