"""Which inputs are encoded together."""

from itertools import pairwise

import numpy as np
import pytest

from pointsman.backends.base import Source
from pointsman.backends.onnxruntime.host.encoder_runs import encoder_runs

PAD = 99


def sources(rng: np.random.Generator, *each: list[int]) -> list[Source]:
    """Requests whose inputs have so many tokens; within a request they are padded."""
    requests = []
    for lengths in each:
        mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
        ids = np.where(mask, rng.integers(1, 50, mask.shape), 0)
        requests.append(Source(ids, mask, rows=len(lengths), room=1))
    return requests


@pytest.mark.parametrize(
    ("lengths", "runs"),
    [
        ([5], [[0]]),
        ([20, 30, 25], [[0, 2, 1]]),  # little is padded
        ([40, 500], [[0], [1]]),
        ([500, 40], [[1], [0]]),
        ([600, 610, 20, 21, 22], [[2, 3, 4], [0, 1]]),
        ([10, 58, 107], [[0, 1], [2]]),  # a run costs as much as 48 tokens
        ([100] * 20, [[*range(20)]]),
        ([600] * 7, [[0], [1, 2, 3], [4, 5, 6]]),  # of several inputs 2,048 tokens at most
        ([3000, 2000, 3000], [[1], [0], [2]]),
    ],
)
def test_those_of_similar_length_share_a_run(lengths, runs):
    given = sources(np.random.default_rng(0), *([one] for one in lengths))
    assert [one.inputs.tolist() for one in encoder_runs(given, PAD)] == runs


def cost(runs: list[list[int]]) -> int:
    return sum(48 + len(run) * max(run) for run in runs)


@pytest.mark.parametrize("seed", range(10))
def test_no_other_way_of_cutting_costs_less(seed):
    lengths = sorted(np.random.default_rng(seed).integers(1, 200, 9).tolist())
    given = sources(np.random.default_rng(0), *([one] for one in lengths))
    found = [one.mask.sum(1).tolist() for one in encoder_runs(given, PAD)]
    least = cost([lengths])
    for cuts in range(1 << 8):
        ends = [0, *(place + 1 for place in range(8) if cuts >> place & 1), 9]
        least = min(least, cost([lengths[first:end] for first, end in pairwise(ends)]))
    assert cost(found) == least


def test_each_input_is_in_one_run_as_it_was():
    rng = np.random.default_rng(3)
    given = sources(rng, [3, 700, 20], [41], [690, 2])
    given[0].attention_mask[1, 5] = 0  # padding that stands inside
    inputs = [each for source in given for each in zip(source.input_ids, source.attention_mask, strict=True)]
    seen = []
    for one in encoder_runs(given, PAD):
        for number, ids, mask in zip(one.inputs, one.ids, one.mask, strict=True):
            own_ids, own_mask = inputs[number]
            shared = min(len(ids), len(own_ids))
            assert ids[mask != 0].tolist() == own_ids[own_mask != 0].tolist()
            assert mask[:shared].tolist() == own_mask[:shared].tolist()
            assert mask[shared:].sum() == own_mask[shared:].sum() == 0
            assert (ids[len(own_ids) :] == PAD).all()
            seen.append(int(number))
    assert sorted(seen) == [*range(6)]
