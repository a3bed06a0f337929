"""What infilling gives back."""

import html
from dataclasses import dataclass
from typing import Literal

SpanState = Literal["growing", "complete", "cut", "missing"]
"""`growing`: more may follow (streams only). `complete`: the model ended it. `cut`: `max_new_tokens` ended it, the last
one as nothing could follow, one before others as the constraint kept two tokens for each blank that was to come and let
nothing but the next sentinel follow; whether the model would have ended it there is not known. `missing`: the model
never came to it (only without the constraint)."""


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

    def _repr_html_(self) -> str:
        """What notebooks show: the text, and its spans in a table."""
        rows = [("whole", "", self.score, "")] + [
            (f"<extra_id_{span.index}>", span.text, span.score, "" if span.state == "complete" else span.state)
            for span in self.spans
        ]
        head = "".join(f"<th>{name}</th>" for name in ("blank", "span", "score", ""))
        return f"<p>{_escaped(self.text)}</p><table><tr>{head}</tr>{''.join(map(_row, rows))}</table>"


def _row(cells: tuple[str, str, float, str]) -> str:
    blank, text, score, state = cells
    shown = (blank, text, f"{score:.3f}", state)
    return f"<tr>{''.join(f'<td>{_escaped(cell)}</td>' for cell in shown)}</tr>"


def _escaped(text: str) -> str:
    """As HTML that shows it and its spaces; nothing in it is markup, a formula or a line of the page's own."""
    return f'<span style="white-space: pre-wrap" class="tex2jax_ignore mathjax_ignore">{html.escape(text)}</span>'
