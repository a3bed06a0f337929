"""Inference engines behind one protocol; each engine is imported only when it is asked for."""

from pointsman.backends.base import Backend
from pointsman.backends.choice import open_backend

__all__ = ["Backend", "open_backend"]
