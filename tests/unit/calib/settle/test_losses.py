"""Teacher-forced cross-entropy against float64."""

import numpy as np
import pytest

from pointsman.errors import ParityError
from pointsman_calib.settle.losses import token_losses
from tolerances import TOKEN_LOSS


def test_token_losses():
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 5, size=(9, 50)).astype(np.float32)
    labels = generator.integers(50, size=9)
    wide = logits.astype(np.float64)
    expected = np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(9), labels]
    TOKEN_LOSS.check(token_losses(logits, labels), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite(value):
    logits = np.zeros((2, 5), np.float32)
    logits[1, 3] = value
    with pytest.raises(ParityError, match="the logits are not finite on this text; export the checkpoint again"):
        token_losses(logits, np.array([0, 3]))
