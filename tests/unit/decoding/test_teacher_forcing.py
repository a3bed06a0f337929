"""Given targets, fed whole and in portions."""

import numpy as np
import pytest

from pointsman.decoding import DecodingOptions, decode, teacher_forced
from pointsman.errors import ParityError
from unit.decoding.random_network import TOKENS, VOCABULARY, RandomNetwork

TARGETS = np.random.default_rng(2).integers(2, VOCABULARY, (3, 7))


@pytest.mark.parametrize("positions", [1, 2, 3, 6, 7, 100])
def test_portions_change_nothing(positions):
    network = RandomNetwork(1)
    logprobs = teacher_forced(network, TARGETS, TOKENS.decoder_start_id, positions=positions)
    assert len(network.fed) == -(-TARGETS.shape[1] // positions)
    np.testing.assert_array_equal(logprobs, teacher_forced(RandomNetwork(1), TARGETS, 0, positions=7))


def test_what_was_generated_is_as_likely_as_generating_says():
    never_ending = {TOKENS.eos_ids[0]: -1e9}
    found = decode(RandomNetwork(1, bias=never_ending), 3, DecodingOptions(max_new_tokens=7), TOKENS)
    targets = np.array([generation.token_ids for (generation,) in found])
    scored = teacher_forced(RandomNetwork(1, bias=never_ending), targets, TOKENS.decoder_start_id, positions=3)
    for row, (generation,) in zip(scored, found, strict=True):
        np.testing.assert_array_equal(row, np.array(generation.token_logprobs, np.float32))


class Breaking(RandomNetwork):
    """Not finite after four tokens and the start token."""

    def _logits(self, row, prefix):
        return np.full(VOCABULARY, np.nan, np.float32) if len(prefix) == 5 else super()._logits(row, prefix)


@pytest.mark.parametrize("positions", [1, 2, 3, 7])
def test_the_token_where_logits_are_not_finite_is_named(positions):
    with pytest.raises(ParityError, match="not finite at token 5:"):
        teacher_forced(Breaking(1), TARGETS, TOKENS.decoder_start_id, positions=positions)
