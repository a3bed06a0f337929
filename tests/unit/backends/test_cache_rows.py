"""Rows of a cache that beams continue: what is copied is enough, and no more than has to be."""

import numpy as np
import pytest

from pointsman.backends.cache_rows import CacheRows, Move


def test_rows_that_continue_themselves_copy_nothing():
    rows = CacheRows(3)
    values = np.array([5, 6, 7])
    assert rows.follow(np.arange(3), 4) == []
    assert rows.to_places(values) is values
    assert rows.from_places(values) is values


def test_rows_that_change_places_copy_nothing():
    rows = CacheRows(3)
    assert rows.follow(np.array([2, 0, 1]), 4) == []
    assert rows.to_places(np.array([5, 6, 7])).tolist() == [6, 7, 5]
    assert rows.from_places(np.array([6, 7, 5])).tolist() == [5, 6, 7]


def test_only_further_children_are_copied_and_only_from_where_they_differ():
    rows = CacheRows(4)
    assert rows.follow(np.array([0, 0, 1, 2]), 5) == [Move(3, 0, 0)]  # the first time, all of it
    assert rows.follow(np.array([0, 0, 2, 3]), 9) == [Move(3, 0, 5)]  # row 1 was in place 3, which row 0 was copied to


@pytest.mark.parametrize("seed", range(20))
def test_every_row_finds_what_its_parents_wrote(seed):
    """A cache of one number for each token, filled and moved as a state would, beside sequences that are copied."""
    random = np.random.default_rng(seed)
    inputs, beams = random.integers(1, 4), random.integers(1, 6)
    count = int(inputs * beams)
    rows, cache, sequences, length = CacheRows(count), np.full((count, 60), -1), [[] for _ in range(count)], 0
    copied = 0
    while length < 50:
        own = np.arange(count)
        parents = own if length == 0 else own // beams * beams + random.integers(0, beams, count)
        moves = rows.follow(parents, length)
        assert {move.target for move in moves}.isdisjoint(move.source for move in moves)
        assert {move.target // beams for move in moves} <= set(range(inputs))
        for target, source, first in moves:
            assert target // beams == source // beams  # within an input
            cache[target, first:length] = cache[source, first:length]
            copied += length - first
        sequences = [list(sequences[parent]) for parent in parents]
        new = random.integers(0, 1000, (count, random.integers(1, 3)))
        cache[:, length : length + new.shape[1]] = rows.to_places(new)
        for sequence, tokens in zip(sequences, new.tolist(), strict=True):
            sequence += tokens
        length += new.shape[1]
        assert rows.from_places(cache)[:, :length].tolist() == sequences
    assert copied < 3 * count * length  # copying whole rows would be some ten times as much
