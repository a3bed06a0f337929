"""Decoding one request by itself: whole generations, or a stream of tokens. It is the only request in a loop."""

from collections.abc import Iterator

from pointsman.decoding.generation import Generation, SpecialTokens, TokenEvent
from pointsman.decoding.loop import Loop
from pointsman.decoding.options import DecodingOptions
from pointsman.decoding.own_state import OneAfterAnother, OwnState
from pointsman.decoding.rules import Constraint
from pointsman.decoding.search import Search, search_of
from pointsman.decoding.step import AnyRows, DecodingState
from pointsman.errors import OptionsError


def decode(
    state: DecodingState,
    batch_size: int,
    options: DecodingOptions,
    tokens: SpecialTokens,
    *,
    constraint: Constraint | None = None,
    first_input: int = 0,
) -> list[list[Generation]]:
    """Generate sequences for every input of a batch.

    Args:
        state: Of the same number of rows until every input is done: `batch_size * num_beams` for beam search, else
            `batch_size * num_return_sequences`. Rows of one input lie together; those of finished ones are fed pad.
        batch_size: Number of inputs.
        options: How to decode. `options.constrain` is the caller's to act on, by passing a constraint.
        tokens: The special tokens.
        constraint: Applied after the options' own processors, and asked when a sequence ends.
        first_input: Number that the first input has for the caller: errors name it, and its random streams follow
            from it.

    Returns:
        For each input its `num_return_sequences` generations: beams best first, samples in the order of their
        random streams. Beam search returns fewer where the rules leave fewer possible sequences.

    Raises:
        OptionsError: The rules leave an input no possible token.
        ParityError: The logits are not finite.
    """
    rows = OwnState(state, tokens.pad_id)
    search = search_of(
        batch_size, options, tokens, constraint=constraint, first_input=first_input, selects=rows.selects
    )
    return alone(_loop_of(search, rows), search)


def stream(
    state: DecodingState,
    batch_size: int,
    options: DecodingOptions,
    tokens: SpecialTokens,
    *,
    constraint: Constraint | None = None,
) -> Iterator[tuple[TokenEvent, ...]]:
    """Generate greedily or by sampling, one step at a time; arguments are those of `decode`.

    Returns:
        An iterator that runs one step at a time and yields the tokens of the sequences still running.

    Raises:
        OptionsError: `num_beams` is above 1 (at once), or no token is possible (while iterating).
        ParityError: The logits are not finite (while iterating).
    """
    check_streams(options)
    rows = OwnState(state, tokens.pad_id)
    search = search_of(batch_size, options, tokens, constraint=constraint, selects=rows.selects)
    return streamed(_loop_of(search, rows))


def check_streams(options: DecodingOptions) -> None:
    """Refuse options whose tokens are not known before the end.

    Raises:
        OptionsError: `num_beams` is above 1.
    """
    if options.num_beams > 1:
        raise OptionsError(
            f"num_beams {options.num_beams} cannot be streamed, as later tokens may change which beam is best; "
            "use num_beams=1"
        )


def alone(loop: Loop[AnyRows], search: Search) -> list[list[Generation]]:
    """Run a loop with one request to its end, and give what was found; errors are those of `decode`."""
    for _ in streamed(loop):
        pass
    return search.generations()


def streamed(loop: Loop[AnyRows]) -> Iterator[tuple[TokenEvent, ...]]:
    """Run a loop with one request to its end, and give the tokens of each step; errors are those of `decode`."""
    while len(loop):
        for progress in loop.step():
            if progress.error is not None:
                raise progress.error
            yield progress.events


def _loop_of(search: Search, rows: OwnState) -> Loop[OwnState]:
    loop = Loop(OneAfterAnother())
    loop.admit(search, rows)
    return loop
