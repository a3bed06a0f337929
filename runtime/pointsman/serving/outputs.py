"""Fills as tensors: the outputs that a model has on inference servers, with one element for each text and fill."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from pointsman.infill import Fill
from pointsman.serving.service import Filled

INPUT: Final = "text_input"
TEXT: Final = "text_output"
SCORE: Final = "score"
SPANS: Final = "spans"
NAMES: Final = (TEXT, SCORE, SPANS)

_NOTHING: Final = Fill("", float(np.finfo(np.float32).min), ())


@dataclass(frozen=True, slots=True)
class Outputs:
    """Outputs of some texts, each flat in row-major order.

    Attributes:
        shape: Texts, fills of each. Where beam search finds fewer fills than were asked for, the last ones are empty,
            and their score is the lowest float32.
        texts: Filled texts.
        scores: As `Fill.score`.
        spans: Spans as JSON.
    """

    shape: tuple[int, int]
    texts: list[str]
    scores: list[float]
    spans: list[str]

    @classmethod
    def of(cls, results: Sequence[Filled]) -> "Outputs":
        """The outputs of texts that were filled with the same options."""
        count = max(filled.request.options.num_return_sequences for filled in results)
        fills = [one for filled in results for one in [*filled.fills, *[_NOTHING] * (count - len(filled.fills))]]
        spans = [json.dumps([asdict(span) for span in fill.spans]) for fill in fills]
        return cls((len(results), count), [fill.text for fill in fills], [fill.score for fill in fills], spans)
