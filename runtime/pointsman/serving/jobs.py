"""What the scheduler is given to do: ids and options that have been checked, and what each comes to in rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.decoding import Constraint, DecodingOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingJob:
    """One input to decode; its answer is `list[Generation]`, as `SwitchModel.generate` gives them for it.

    Attributes:
        ids: The input's, eos included; they and the options have been through `SwitchModel`'s checks.
        options: How to decode.
        constraint: What output must look like, made for this input alone.
        number: Of the input among those that it came with: samples follow from it.
        is_streamed: Whether somebody reads the tokens as they come. Beam search has none to give before its end.
    """

    ids: Sequence[int]
    options: DecodingOptions
    constraint: Constraint | None = None
    number: int = 0
    is_streamed: bool = False

    @property
    def rows(self) -> int:
        """Rows of the decoder that it takes: beams, or samples."""
        return self.options.num_return_sequences if self.options.do_sample else self.options.num_beams


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringJob:
    """Targets to score for one input; its answer is the log-probabilities of each target's tokens.

    Attributes:
        ids: The input's, checked.
        targets: Ids of each target, eos included, checked.
    """

    ids: Sequence[int]
    targets: Sequence[Sequence[int]]

    @property
    def rows(self) -> int:
        """Rows of the decoder that it takes at most."""
        return len(self.targets)


Job = DecodingJob | ScoringJob

Scores = list[NDArray[np.float32]]
"""Log-probabilities of targets' tokens, float32 [tokens] each."""
