"""Decoding in plain NumPy over an engine's state; knows nothing of text or engines.

Three layers: a `DecodingState` (step.py) gives the logits of next tokens or selects those that matter, `stream` gives
tokens one step at a time (greedy search and sampling), `decode` whole generations (these and beam search).
"""

from pointsman.decoding.constraints import SentinelConstraint, check_room
from pointsman.decoding.decode import decode, stream
from pointsman.decoding.generation import FinishReason, Generation, SpecialTokens, TokenEvent
from pointsman.decoding.options import DecodingFields, DecodingOptions
from pointsman.decoding.rules import Constraint
from pointsman.decoding.step import DecodingState, SelectingState, Selection
from pointsman.decoding.teacher_forcing import teacher_forced

__all__ = [
    "Constraint",
    "DecodingFields",
    "DecodingOptions",
    "DecodingState",
    "FinishReason",
    "Generation",
    "SelectingState",
    "Selection",
    "SentinelConstraint",
    "SpecialTokens",
    "TokenEvent",
    "check_room",
    "decode",
    "stream",
    "teacher_forced",
]
