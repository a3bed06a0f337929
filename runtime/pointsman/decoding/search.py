"""A request as decoding sees it: rows that want to be fed, and scores that say how they go on."""

from typing import Protocol

from pointsman.decoding.beam_search import BeamSearch
from pointsman.decoding.generation import Generation, SpecialTokens, TokenEvent
from pointsman.decoding.options import DecodingOptions
from pointsman.decoding.rules import Constraint, Rules
from pointsman.decoding.sequences import Sequences
from pointsman.decoding.step import Answer, Feed, Selects


class Search(Protocol):
    """Some inputs of the same options, searched together until each is done; those that are give their rows back."""

    @property
    def done(self) -> bool:
        """Whether all inputs are."""
        ...

    def feed(self) -> Feed:
        """What its rows are to be fed next."""
        ...

    def advance(self, answer: Answer) -> tuple[TokenEvent, ...]:
        """Go on by what an engine has answered to the last `feed`.

        Returns:
            The tokens of the sequences still running; none of beams, since later tokens may change which is best.

        Raises:
            OptionsError: The rules leave an input no possible token.
            ParityError: The logits are not finite.
        """
        ...

    def generations(self) -> list[list[Generation]]:
        """What was found for each input; nothing for inputs that are not done."""
        ...


def search_of(
    batch_size: int,
    options: DecodingOptions,
    tokens: SpecialTokens,
    *,
    constraint: Constraint | None = None,
    first_input: int = 0,
    selects: Selects | None = None,
) -> Search:
    """The search that options ask for; arguments are those of `decode`.

    Args:
        batch_size: Number of inputs.
        options: How to decode.
        tokens: The special tokens.
        constraint: What output must look like.
        first_input: Number of the first input.
        selects: What the engine can select of logits.
    """
    rules = Rules.of(options, tokens, constraint, first_input)
    if options.num_beams > 1:
        return BeamSearch(batch_size, options, rules, selects)
    return Sequences(batch_size, options, rules, selects)
