"""Serialized graphs, read and changed as messages: the runtime has no onnx."""
