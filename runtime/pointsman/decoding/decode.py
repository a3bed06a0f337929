"""The whole of decoding in one call."""

from collections.abc import Sequence

from pointsman.decoding.beam_search import beam_search
from pointsman.decoding.constraints import Constraint
from pointsman.decoding.generation import Generation, SpecialTokens, TokenEvent, length_normalized
from pointsman.decoding.options import DecodingOptions
from pointsman.decoding.processors import LogitsProcessor
from pointsman.decoding.rules import Rules
from pointsman.decoding.step import StepFunction
from pointsman.decoding.token_stream import stream


def decode(
    step: StepFunction,
    batch_size: int,
    options: DecodingOptions,
    tokens: SpecialTokens,
    *,
    processors: Sequence[LogitsProcessor] = (),
    constraint: Constraint | None = None,
    first_input: int = 0,
) -> list[list[Generation]]:
    """Generate sequences for every input of a batch.

    Args:
        step: Called with the same number of rows until every input is done: `batch_size * num_beams` for beam
            search, else `batch_size * num_return_sequences`. Rows of one input lie together.
        batch_size: Number of inputs.
        options: How to decode. `options.constrain` is the caller's to act on, by passing a constraint.
        tokens: The special tokens.
        processors: Applied after those of the options.
        constraint: Applied last, and asked when a sequence ends.
        first_input: Number that the first input has for the caller: errors name it, and its random streams follow
            from it.

    Returns:
        For each input its `num_return_sequences` generations: beams best first, samples in the order of their
        random streams. Beam search returns fewer where the processors leave fewer possible sequences.

    Raises:
        OptionsError: The processors leave an input no possible token.
        ParityError: The step's logits are not finite.
    """
    if options.num_beams > 1:
        rules = Rules.of(options, tokens, processors, constraint, first_input)
        return beam_search(step, batch_size, options, rules)
    events: list[list[list[TokenEvent]]] = [
        [[] for _ in range(options.num_return_sequences)] for _ in range(batch_size)
    ]
    for step_events in stream(
        step, batch_size, options, tokens, processors=processors, constraint=constraint, first_input=first_input
    ):
        for event in step_events:
            events[event.input_index][event.return_index].append(event)
    return [[_generation(of_sequence, options) for of_sequence in of_input] for of_input in events]


def _generation(events: Sequence[TokenEvent], options: DecodingOptions) -> Generation:
    logprobs = tuple(event.logprob for event in events)
    return Generation(
        token_ids=tuple(event.token_id for event in events),
        score=length_normalized(sum(logprobs), len(logprobs), options.length_penalty),
        finish_reason=events[-1].finish_reason or "length",
        token_logprobs=logprobs,
    )
