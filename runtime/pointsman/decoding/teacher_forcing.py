"""Log-probabilities of given targets (teacher forcing)."""

import numpy as np
from numpy.typing import NDArray

from pointsman.decoding.scores import checked_logits, log_normalizers
from pointsman.decoding.step import DecodingState


def teacher_forced(
    state: DecodingState, target_ids: NDArray[np.int64], decoder_start_id: int, *, positions: int
) -> NDArray[np.float32]:
    """Feed targets, and see how likely each of their tokens is.

    Args:
        state: Of as many rows, without steps so far.
        target_ids: `[rows, tokens]`; whatever stands behind a target's end changes nothing before it.
        decoder_start_id: What stands before the first token.
        positions: How many tokens of each row to feed in a step.

    Returns:
        The natural log-probability of each token, `[rows, tokens]`.

    Raises:
        ParityError: The logits are not finite.
    """
    fed = np.roll(target_ids, 1, axis=1)
    fed[:, 0] = decoder_start_id
    own_rows = np.arange(len(fed))
    logprobs = np.empty(fed.shape, np.float32)
    for first in range(0, fed.shape[1], positions):
        part = slice(first, first + positions)
        logits = state.step(np.ascontiguousarray(fed[:, part]), own_rows)
        logprobs[:, part] = _logprobs(logits, target_ids[:, part], first)
    return logprobs


def _logprobs(logits: NDArray[np.float32], token_ids: NDArray[np.int64], first: int) -> NDArray[np.float32]:
    """Of `token_ids` `[rows, positions]`, by the logits of each position `[rows, positions, vocabulary]`."""
    for position in range(logits.shape[1]):
        checked_logits(logits[:, position], first + position + 1)
    normalizers = log_normalizers(logits.reshape(-1, logits.shape[2])).reshape(token_ids.shape)
    chosen: NDArray[np.float32] = np.take_along_axis(logits, token_ids[:, :, None], axis=2)[:, :, 0]
    return chosen - normalizers
