"""The operations over the whole vocabulary, against the plain way of writing them."""

import numpy as np
import pytest

from pointsman.decoding.scores import best_continuations, log_softmax


def best_by_sorting(log_probs, running_scores, count):
    batch, _, vocabulary = log_probs.shape
    sums = (log_probs + running_scores[:, :, None]).reshape(batch, -1)
    order = np.argsort(-sums, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(sums, order, axis=1), order // vocabulary, order % vocabulary


@pytest.mark.parametrize("vocabulary", [7, 97, 256, 640, 1021, 32128], ids=str)  # 7, 97 and 1021 are primes
@pytest.mark.parametrize("levels", [None, 5], ids=["distinct", "many ties"])
@pytest.mark.parametrize(("batch", "beams"), [(1, 1), (1, 4), (3, 2)])
def test_best_continuations(batch, beams, levels, vocabulary):
    rng = np.random.default_rng(vocabulary)
    shape = (batch, beams, vocabulary)
    log_probs = -rng.random(shape) if levels is None else -rng.integers(levels, size=shape)
    log_probs = log_probs.astype(np.float32)
    log_probs[:, -1, ::3] = -np.inf
    running = -rng.integers(3, size=(batch, beams)).astype(np.float32)
    running[0, -1] = -1e9 if beams > 1 else 0
    found = best_continuations(log_probs, running, 2 * beams)
    for ours, expected in zip(found, best_by_sorting(log_probs, running, 2 * beams), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_log_softmax_of_large_and_impossible_logits():
    logits = np.array([[1e4, 1e4 - 1, -np.inf], [-1e4, -1e4, -1e4]], np.float32)
    expected = [[-np.log1p(np.exp(-1)), -1 - np.log1p(np.exp(-1)), -np.inf], [-np.log(3)] * 3]
    assert log_softmax(logits) is logits
    np.testing.assert_allclose(logits, expected, atol=1e-3)
