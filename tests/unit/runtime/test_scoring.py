"""Scoring in portions: steps stay small where a variant fetches experts, and targets stay whole where experts drop."""

from dataclasses import replace

import numpy as np
import pytest
from fake_backend import wandering
from small_bundles import fake_model

from pointsman.errors import OptionsError
from pointsman.scoring import Portion, shared_out

VOCAB = 128
SOURCES = [[5, 6, 7, 1], [8, 1], [9, 10, 11, 1]]
# d_model and d_ff whose product has so many bytes in float32.
MB_64, MB_8, MB_1 = (4096, 4096), (1024, 2048), (512, 512)


def targets(count, length):
    rng = np.random.default_rng(length)
    return [rng.integers(2, VOCAB, length - number % 3).tolist() for number in range(count)]


def model_of(manifest, sizes, form="portable", **variant):
    """A model with experts of other sizes; what it computes does not depend on them."""
    d_model, d_ff = sizes
    name = f"{form}-float32"
    architecture = replace(manifest.architecture, d_model=d_model, d_ff=d_ff)
    variants = {name: replace(manifest.variants[name], **variant)}
    return fake_model(replace(manifest, architecture=architecture, variants=variants), wandering(VOCAB), name)


@pytest.mark.parametrize(("sizes", "most"), [(MB_64, 1), (MB_8, 15), (MB_1, 127)])
@pytest.mark.parametrize(("count", "length"), [(3, 20), (3, 64), (12, 9), (30, 5)])
def test_what_is_fetched_at_a_time_is_bounded(manifest, sizes, most, count, length):
    model, given = model_of(manifest, sizes), targets(count, length)
    found = model.score(SOURCES, given)
    assert all(rows * positions <= most for rows, positions in model.backend.fed)
    tokens = sum(map(len, given))
    assert tokens / len(model.backend.fed) >= min(most, tokens) / 2, "steps are smaller than they need be"
    whole = model_of(manifest, sizes, form="fused")
    for ours, theirs in zip(found, whole.score(SOURCES, given), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert whole.backend.fed == [(count, length)]


@pytest.mark.parametrize("form", ["portable", "fused"])
def test_targets_that_can_overflow_an_expert_are_fed_whole(manifest, form):
    model = model_of(manifest, MB_64, form=form, capacity=16)
    model.score(SOURCES, targets(6, 17))
    assert {positions for _, positions in model.backend.fed} <= {15, 16, 17}
    assert len(model.backend.fed) == (6 if form == "portable" else 1)


@pytest.mark.parametrize(("capacity", "length"), [(None, 128), (16, 16), (16, 15)])
def test_targets_that_cannot_are_cut(manifest, capacity, length):
    model = model_of(manifest, MB_64, capacity=capacity)
    model.score(SOURCES[:1], targets(1, length))
    assert model.backend.fed == [(1, 1)] * length


def test_a_decoder_without_experts_fetches_none(manifest):
    architecture = replace(manifest.architecture, d_model=4096, d_ff=4096)
    decoder = replace(architecture.decoder, sparse_layers=())
    variant = replace(manifest.variants["portable-float32"], capacity=2)
    portion = Portion.of(variant, replace(architecture, decoder=decoder), targets=4, longest=100)
    assert (portion.rows, portion.positions) == (4, (1 << 27) // (4 * VOCAB) // 4)


@pytest.mark.parametrize(("precision", "tokens"), [("float16", 4), ("bfloat16", 4), ("float32", 2), ("int8-qdq", 2)])
def test_experts_have_the_precision_that_they_are_multiplied_in(manifest, precision, tokens):
    architecture = replace(manifest.architecture, d_model=4096, d_ff=3968)
    variant = replace(manifest.variants["portable-float32"], precision=precision)
    assert Portion.of(variant, architecture, targets=1, longest=9).positions == tokens


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 12, 100])
@pytest.mark.parametrize(("inputs", "each"), [(1, 1), (1, 9), (3, 1), (3, 4), (4, 3)])
def test_every_target_is_shared_out_once_and_to_its_source(inputs, each, rows):
    sources = [f"s{number}" for number in range(inputs)]
    given = [f"s{number}t{target}" for number in range(inputs) for target in range(each)]
    parts = [*shared_out(sources, given, rows)]
    assert [target for _, of_part in parts for target in of_part] == given
    for of_sources, of_targets in parts:
        assert len(of_targets) <= rows
        count = len(of_targets) // len(of_sources)
        assert [target[:2] for target in of_targets] == [source for source in of_sources for _ in range(count)]


def test_padding_behind_targets_is_no_part_of_them(manifest):
    model = model_of(manifest, MB_1)
    given = targets(3, 9)
    padded = [[*ids, *[model.special_tokens.pad_id] * number] for number, ids in enumerate(given)]
    for one, other in zip(model.score(SOURCES, padded), model.score(SOURCES, given), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_target_that_would_take_gigabytes_is_refused(manifest):
    sentence = (
        r"^a target of 70 tokens would fetch 4\.7 GB of experts at once, .* of 16 .*; score with a fused variant, or"
    )
    with pytest.raises(OptionsError, match=sentence):
        model_of(manifest, MB_64, capacity=16).score(SOURCES[:1], targets(1, 70))
    for other in (model_of(manifest, MB_64, form="fused", capacity=16), model_of(manifest, MB_64, capacity=None)):
        assert len(other.score(SOURCES[:1], targets(1, 70))[0]) == 70
