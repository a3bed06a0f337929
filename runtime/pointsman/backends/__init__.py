"""Inference engines behind one protocol; each engine is imported only when it is asked for."""

from pointsman.backends.base import Backend, DecodingState
from pointsman.backends.choice import open_backend

__all__ = ["Backend", "DecodingState", "open_backend"]
