"""A corpus counted in parts, through files, comes to what it comes to as a whole, to the last bit."""

import json
from dataclasses import replace

import pytest

from pointsman.bundle.records import to_json
from pointsman.errors import OutputError
from pointsman_calib.comparison import compare
from pointsman_calib.comparison.counting import count
from pointsman_calib.comparison.counts import added_up, read_counts, write_counts
from pointsman_calib.comparison.measuring.tallies import Overflow, VariantTally
from pointsman_calib.comparison.records import NonFinite


def in_parts(folder, size):
    """A counter that keeps what it has counted of each part in a file."""

    def counter(reading):
        starts = range(0, len(reading.corpus.examples), size)
        for start in starts:
            examples = reading.corpus.examples[start : start + size]
            part = replace(reading, corpus=replace(reading.corpus, examples=examples), threads=1)
            write_counts(folder / f"{start}.json", count(part))
        return added_up(read_counts(folder / f"{start}.json") for start in starts)

    return counter


OPTIONS = {"candidates": ["fused-int4"], "layers": True, "batch_size": 2, "generations": 0}


@pytest.fixture(scope="module")
def whole(quantized_bundle, corpus):
    return compare(quantized_bundle, corpus, **OPTIONS)


@pytest.mark.parametrize("size", [2, 4])
def test_parts_come_to_the_whole(quantized_bundle, corpus, whole, tmp_path, size):
    assert compare(quantized_bundle, corpus, counter=in_parts(tmp_path, size), **OPTIONS) == whole
    assert whole.candidates[0].loss_increase.low is not None
    assert len(list(tmp_path.iterdir())) == -(-10 // size)


def test_parts_of_a_candidate_that_overflows(overflowing, corpus, tmp_path):
    options = {"candidates": ["fused-int8"], "generations": 0}
    whole = compare(overflowing, corpus, **options)
    assert compare(overflowing, corpus, counter=in_parts(tmp_path, 4), **options) == whole
    assert whole.candidates[0].variant.non_finite


@pytest.mark.parametrize(
    ("pieces", "first"),
    [([None, 3], 1), ([3, None], 0), ([2, 2], 0), ([5, 2, 3], 1), ([None, None], None)],
)
def test_the_first_overflow_is_that_of_the_earliest_piece(pieces, first):
    """All documents are run through a piece before any is run through the next."""
    overflows = [
        None if piece is None else Overflow(piece, (NonFinite(name=str(part), values=1),))
        for part, piece in enumerate(pieces)
    ]
    whole, *others = (VariantTally(num_experts=2, overflow=overflow) for overflow in overflows)
    for other in others:
        whole.merge(other)
    assert whole.overflow == (None if first is None else overflows[first])
    assert [tensor.name for tensor in whole.non_finite] == ([] if first is None else [str(first)])


@pytest.fixture
def kept(quantized_bundle, corpus, tmp_path):
    """A file of counts."""
    one = replace(corpus, examples=corpus.examples[:2])
    path = tmp_path / "part.json"
    compare(quantized_bundle, one, candidates=["fused-int8"], generations=0, counter=in_parts(tmp_path, 2))
    (tmp_path / "0.json").rename(path)
    return path


def test_counts_there_and_back(kept):
    assert to_json(read_counts(kept)) == json.loads(kept.read_text())


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda text: text[:-9], "part.json is damaged ("),
        (lambda text: text.replace('"nats"', '"nits"'), ".losses.nits is unknown); remove it and compare again"),
        (lambda text: "[]", "(the document must be an object, not []); remove it and compare again"),
    ],
)
def test_a_damaged_file(kept, damage, line):
    kept.write_text(damage(kept.read_text()))
    with pytest.raises(OutputError) as raised:
        read_counts(kept)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)
