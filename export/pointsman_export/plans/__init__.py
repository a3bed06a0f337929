"""Portable graphs to TensorRT plans, through Polygraphy: one path for TensorRT and TensorRT-RTX, without torch."""
