"""Calibrate exported bundles to INT8 on C4, and compare them with what they were made from."""
