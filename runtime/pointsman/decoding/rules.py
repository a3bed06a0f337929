"""What one call of `decode` or `stream` obeys at every step: which tokens are possible, and when to stop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pointsman.decoding.constraints import Constraint
from pointsman.decoding.generation import SpecialTokens
from pointsman.decoding.options import DecodingOptions
from pointsman.decoding.processors import LogitsProcessor, NamingProcessor, processors_of
from pointsman.errors import OptionsError


@dataclass(frozen=True, slots=True)
class Rules:
    """The processors in their order, what ends a sequence, and the number that the first input has for the caller."""

    tokens: SpecialTokens
    processors: tuple[LogitsProcessor, ...]
    constraint: Constraint | None
    first_input: int = 0

    @classmethod
    def of(
        cls,
        options: DecodingOptions,
        tokens: SpecialTokens,
        processors: Sequence[LogitsProcessor],
        constraint: Constraint | None,
        first_input: int,
    ) -> Self:
        """The options' processors first, then the caller's, then the constraint, which so has the last word."""
        last = () if constraint is None else (constraint,)
        return cls(tokens, (*processors_of(options, tokens.eos_id), *processors, *last), constraint, first_input)

    @property
    def ending_tokens(self) -> int:
        """How many different tokens may end one sequence."""
        return 1 if self.constraint is None else self.constraint.ending_tokens

    def process(self, prefixes: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the processors; they may write into `scores` `[rows, vocabulary]`."""
        for processor in self.processors:
            scores = processor(prefixes, scores)
        return scores

    def named(self, prefixes: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """The tokens `[rows, any]` that the processors may change; None where one of them does not say."""
        named = [prefixes[:, :0]]
        for processor in self.processors:
            if not isinstance(processor, NamingProcessor):
                return None
            named.append(processor.named(prefixes))
        return np.concatenate(named, axis=1)

    def ended(self, prefixes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows `[rows]` end with the last token of their prefix `[rows, length]`."""
        by_eos: NDArray[np.bool_] = prefixes[:, -1] == self.tokens.eos_id
        return by_eos if self.constraint is None else by_eos | self.constraint.ended(prefixes)

    def no_token_possible(self, input_index: int) -> OptionsError:
        """The error of a search that the processors together have left nowhere to go."""
        number = self.first_input + input_index
        return OptionsError(
            f"input {number}: no_repeat_ngram_size, min_new_tokens, the constraint or the given processors "
            "together leave no possible token; relax one of them"
        )
