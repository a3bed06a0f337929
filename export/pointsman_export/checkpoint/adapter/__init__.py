"""PEFT adapters: what they were trained with, what they add to weights, and a base with them merged in."""

from pointsman_export.checkpoint.adapter.config import AdapterConfig
from pointsman_export.checkpoint.adapter.merging import SameValues, merged
from pointsman_export.checkpoint.adapter.updates import Adapter, adapter_of, separated

__all__ = ["Adapter", "AdapterConfig", "SameValues", "adapter_of", "merged", "separated"]
