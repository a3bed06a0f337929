"""Text with blanks in, texts with spans out.

    results.py    what comes back: `Fill` and `Span`
    requests.py   what goes in, checked once: texts and options to ids, room and batches
    spans.py      generated ids to spans, token by token
    infiller.py   `Infiller`: fills, streams, scores
    outcomes.py   many texts of which some cannot be filled

A text's blanks go to the model as they are written, whatever their numbers and order; the answer is taken apart by
its ids, each span is detokenised by itself, and the text outside the blanks comes back character for character.
"""

from pointsman.decoding import DecodingFields
from pointsman.infill.infiller import Infiller
from pointsman.infill.results import Fill, Span, SpanState

__all__ = ["DecodingFields", "Fill", "Infiller", "Span", "SpanState"]
