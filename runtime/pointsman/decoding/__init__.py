"""Decoding in plain numpy over a step function; knows nothing of text or engines.

Three storeys: a `StepFunction` gives the logits of the next token (or selects those that matter), `stream` tells of
tokens one step at a time (greedy search and sampling), `decode` returns whole generations (these and beam search).
"""

from pointsman.decoding.constraints import Constraint, SentinelConstraint, check_sentinels
from pointsman.decoding.decode import decode
from pointsman.decoding.generation import FinishReason, Generation, SpecialTokens, TokenEvent
from pointsman.decoding.options import DecodingOptions
from pointsman.decoding.processors import LogitsProcessor, NamingProcessor
from pointsman.decoding.step import SelectingStepFunction, StepFunction
from pointsman.decoding.token_stream import stream

__all__ = [
    "Constraint",
    "DecodingOptions",
    "FinishReason",
    "Generation",
    "LogitsProcessor",
    "NamingProcessor",
    "SelectingStepFunction",
    "SentinelConstraint",
    "SpecialTokens",
    "StepFunction",
    "TokenEvent",
    "check_sentinels",
    "decode",
    "stream",
]
