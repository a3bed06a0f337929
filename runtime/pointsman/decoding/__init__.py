"""Decoding in plain NumPy over an engine's state; knows nothing of text or engines.

A `Search` is a request: it says what its rows are to be fed, and goes on by the scores of next tokens. A `Loop` steps
the rows of many requests at once, which come and go between steps. What it asks of an engine is in step.py. `decode`
and `stream` run a loop with one request.
"""

from pointsman.decoding.constraints import SentinelConstraint, check_room, is_forced
from pointsman.decoding.decode import alone, check_streams, decode, stream, streamed
from pointsman.decoding.generation import FinishReason, Generation, SpecialTokens, TokenEvent
from pointsman.decoding.keywords import DecodingFields, check_names, without_options
from pointsman.decoding.loop import Loop, Progress, Running
from pointsman.decoding.options import DecodingOptions
from pointsman.decoding.own_state import OneAfterAnother, OwnState
from pointsman.decoding.rules import Constraint
from pointsman.decoding.search import Search, search_of
from pointsman.decoding.signatures import with_options
from pointsman.decoding.step import Answer, DecodingState, Feed, Rows, SelectingState, Selection, Selects, Stepper
from pointsman.decoding.teacher_forcing import teacher_forced

__all__ = [
    "Answer",
    "Constraint",
    "DecodingFields",
    "DecodingOptions",
    "DecodingState",
    "Feed",
    "FinishReason",
    "Generation",
    "Loop",
    "OneAfterAnother",
    "OwnState",
    "Progress",
    "Rows",
    "Running",
    "Search",
    "SelectingState",
    "Selection",
    "Selects",
    "SentinelConstraint",
    "SpecialTokens",
    "Stepper",
    "TokenEvent",
    "alone",
    "check_names",
    "check_room",
    "check_streams",
    "decode",
    "is_forced",
    "search_of",
    "stream",
    "streamed",
    "teacher_forced",
    "with_options",
    "without_options",
]
