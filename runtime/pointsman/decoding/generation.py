"""What decoding knows of the vocabulary, and what it gives back."""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["eos", "length"]
"""`eos`: the model ended the sequence (by eos, or by the constraint's last token). `length`: no room was left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """The ids that decoding itself needs to know.

    Attributes:
        pad_id: Fed to rows that have finished while others go on.
        eos_ids: Each ends a sequence; at least one.
        decoder_start_id: The first token every row is fed; never part of a result.
        suppressed: Never come.
        suppressed_first: Do not come first; or second, where the first is forced.
        bad_words: Sequences that never come.
        forced_first: Comes first, where no constraint says what does.
        forced_last: One of them comes where no room is left; likewise.
    """

    pad_id: int
    eos_ids: tuple[int, ...]
    decoder_start_id: int
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    forced_first: int | None = None
    forced_last: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """One generated sequence.

    Attributes:
        token_ids: Without the decoder start token; with eos when it was produced.
        score: `sum(token_logprobs) / len(token_ids) ** length_penalty`, as beam search ranks by.
        finish_reason: Why it ends where it ends.
        token_logprobs: Natural log-probability of each token. Greedy and sampling: log-softmax of the logits
            after the processors and before temperature, top-k and top-p, so that it does not depend on how
            the token was drawn. Beam search: log-softmax, then the processors, as transformers scores beams.
    """

    token_ids: tuple[int, ...]
    score: float
    finish_reason: FinishReason
    token_logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One token of one sequence, as soon as it is known.

    Attributes:
        input_index: Which input of the batch.
        return_index: Which of its `num_return_sequences`.
        token_id: The token.
        logprob: Its log-probability, as in `Generation.token_logprobs`.
        finish_reason: Set on a sequence's last token.
    """

    input_index: int
    return_index: int
    token_id: int
    logprob: float
    finish_reason: FinishReason | None


def length_normalized(total: float, length: int, length_penalty: float) -> float:
    """The score of a sequence: its summed log-probability over its length to the power of the penalty."""
    divisor: float = length**length_penalty
    return total / divisor
