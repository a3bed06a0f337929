"""What infilling gives back."""

from dataclasses import dataclass
from typing import Literal

SpanState = Literal["growing", "complete", "cut", "missing"]
"""`growing`: more may follow (streams only). `complete`: something follows it. `cut`: the output ended in it for want
of room. `missing`: the model never came to it (only without the constraint)."""


@dataclass(frozen=True, slots=True)
class Span:
    """What the model put into one blank.

    Attributes:
        index: n of the blank's `<extra_id_n>`.
        text: As it stands in the filled text: without the spaces that the text has already.
        score: Summed natural log-probabilities of the span's tokens, its sentinels not counted; 0 of no tokens.
        token_ids: The span's tokens, sentinels not counted.
        state: Whether the span is whole.
    """

    index: int
    text: str
    score: float
    token_ids: tuple[int, ...]
    state: SpanState


@dataclass(frozen=True, slots=True)
class Fill:
    """A text with its blanks filled.

    Attributes:
        text: The filled text.
        score: Of the whole output, sentinels included, as `Generation.score`: log-probabilities over its length to
            the power of `length_penalty`.
        spans: One for every blank, in the order of the text.
    """

    text: str
    score: float
    spans: tuple[Span, ...]
