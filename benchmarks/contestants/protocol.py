"""What every contestant can do."""

from typing import Any, Protocol

from cases import Case
from contestants.forcing import ForcedTarget
from contestants.job import Ids, Options


class Contestant(Protocol):
    """A loaded model."""

    vocab_size: int

    def encode(self, input_ids: Ids) -> None:
        """Run the encoder alone, and wait for it."""
        ...

    def generate(self, input_ids: Ids, options: Options) -> Ids:
        """The generated tokens of the best sequence of every input, eos included."""
        ...

    def force(self, input_ids: list[int], target: ForcedTarget) -> None:
        """Decode one input greedily, a token at a time, where the target decides what comes next."""
        ...

    def observed(self, case: Case, /) -> dict[str, Any]:
        """What else is to be noted of a case, in a run that is not timed."""
        ...


def run(contestant: Contestant, case: Case) -> Ids:
    """Do what a case asks.

    Returns:
        the generated tokens of the best sequence of every input.
    """
    input_ids = case.input_ids(contestant.vocab_size)
    if not case.new_tokens:
        contestant.encode(input_ids)
        return []
    forced = {"min_new_tokens": case.new_tokens, "max_new_tokens": case.new_tokens}
    return contestant.generate(input_ids, {"num_beams": case.beams, **forced})
