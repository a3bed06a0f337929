"""Two variants side by side: piece by piece as whole, as Polygraphy runs them, and where one overflows."""

import numpy as np
import pytest
from polygraphy.comparator import Comparator

from pointsman.bundle import read_manifest
from pointsman.errors import ParityError
from pointsman_calib.comparison.measuring.teacher_forcing import Counted, Reader, count_pair, cuts_of
from pointsman_calib.comparison.polygraphy_runner import TeacherForcingRunner, feeds
from tolerances import FORMS

FLOAT, INT8 = "fused-float32", "fused-int8"


@pytest.fixture(scope="module")
def manifest(quantized_bundle):
    return read_manifest(quantized_bundle)


def counted(bundle, corpus, *, baseline=FLOAT, candidate=INT8, piece_bytes=None, progress=int) -> Counted:
    manifest = read_manifest(bundle)
    pair = {name: manifest.variants[name] for name in (baseline, candidate)}
    cuts = cuts_of(manifest.architecture, pair.values(), *([] if piece_bytes is None else [piece_bytes]))
    one, other = (
        Reader(bundle, name, variant, manifest.architecture, lambda: corpus.batches(manifest.architecture, 4), cuts)
        for name, variant in pair.items()
    )
    return count_pair(one, other, num_experts=manifest.architecture.num_experts, layers=True, progress=progress)


@pytest.fixture(scope="module")
def whole(quantized_bundle, corpus):
    return counted(quantized_bundle, corpus)


def test_large_variants_are_cut_after_each_block(manifest):
    architecture, variants = manifest.architecture, [manifest.variants[name] for name in (INT8, FLOAT)]
    blocks = {role: [f"{role}.block.{number}" for number in range(4)] for role in ("encoder", "decoder")}
    size = max(sum(file.bytes for file in variant.files) for variant in variants)
    assert cuts_of(architecture, variants, size - 1) == blocks
    assert cuts_of(architecture, variants, size) == {role: names[-1:] for role, names in blocks.items()}


def test_pieces_count_what_whole_graphs_do(quantized_bundle, corpus, whole):
    read = []
    pieces = counted(quantized_bundle, corpus, piece_bytes=0, progress=read.append)
    assert sum(read) == (5 + 5) * len(corpus.examples)  # four blocks and an end in each graph
    assert pieces.candidate.coverage() == whole.candidate.coverage()
    assert pieces.pair.experts() == whole.pair.experts()
    assert (pieces.pair.tokens, pieces.pair.routed) == (whole.pair.tokens, whole.pair.routed)
    np.testing.assert_array_equal(pieces.candidate.losses.sums, whole.candidate.losses.sums)
    for one, other in ((pieces.pair.outputs(), whole.pair.outputs()), (pieces.pair.layers(), whole.pair.layers())):
        assert one == other


def test_errors_are_those_of_polygraphy(quantized_bundle, corpus, whole, manifest):
    """Whole graphs in Polygraphy's own runners, through its `Comparator`."""
    batches = list(corpus.batches(manifest.architecture, 4))
    runners = [TeacherForcingRunner(quantized_bundle, name) for name in (FLOAT, INT8)]
    results = Comparator.run(runners, data_loader=list(map(feeds, batches)))
    given = [[dict(iteration.items()) for iteration in iterations] for _, iterations in results]
    for errors in whole.pair.outputs():
        ours, theirs = (np.concatenate([outputs[errors.name] for outputs in each]) for each in given)
        FORMS.check(errors.max_absolute, np.abs(ours - theirs).max(), errors.name)
        assert errors.values == ours.size
    ours, theirs = (np.concatenate([outputs["logits"] for outputs in each]).argmax(axis=1) for each in given)
    same = ours == theirs
    assert (whole.pair.tokens.agree, whole.pair.tokens.total) == (np.count_nonzero(same), same.size)


@pytest.mark.parametrize(("piece_bytes", "blocks"), [(0, [1]), (None, [1, 2, 3])])
def test_a_candidate_that_overflows(overflowing, corpus, piece_bytes, blocks):
    """It is run no further than the piece in which it does; the baseline is counted to its end."""
    found = counted(overflowing, corpus, piece_bytes=piece_bytes)
    assert [tensor.name for tensor in found.candidate.non_finite] == [f"decoder.block.{number}" for number in blocks]
    assert found.baseline.non_finite == ()
    assert len(found.baseline.losses.sums) == 10


def test_a_baseline_that_overflows(overflowing, corpus):
    line = (
        r"baseline fused-int8 gives values that are not finite \(\d+ of decoder\.block\.1, .*\); compare with a float32"
    )
    with pytest.raises(ParityError, match=line):
        counted(overflowing, corpus, baseline=INT8, candidate=FLOAT)
