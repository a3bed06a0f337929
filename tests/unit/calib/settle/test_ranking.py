"""Branches that are run together score as each would by itself, on a model whose pieces are small."""

import numpy as np
import pytest
from text import corpus, random_examples

from pointsman.bundle import names, read_manifest
from pointsman_calib.graphs.runs import graph_files
from pointsman_calib.rounding import round_blocks
from pointsman_calib.schemes.weight_only.draft import WeightOnlyDraft
from pointsman_calib.settle import CalibrationText, Kept, score
from pointsman_calib.settle.ranking import places_of
from pointsman_calib.settle.search import layers_of

TEXT = corpus(random_examples(3, [(20, 12), (9, 5), (31, 8), (14, 9), (8, 3)]))


@pytest.fixture(scope="module")
def calibration(tiny_bundle, tmp_path_factory) -> CalibrationText:
    manifest = read_manifest(tiny_bundle)
    return CalibrationText(
        corpus=TEXT,
        architecture=manifest.architecture,
        variant=manifest.variants["fused-float32"],
        most_tokens=64,
        scratch=tmp_path_factory.mktemp("draft"),
    )


@pytest.fixture(scope="module")
def draft(tiny_bundle, calibration) -> WeightOnlyDraft:
    """Of INT4 weights, to which finer inputs matter least, rounded to nearest."""
    draft = WeightOnlyDraft(graph_files(tiny_bundle, calibration.variant), "int4", calibration.scratch)
    draft.round(lambda _name: round_blocks)
    return draft


def test_every_branch_scores_as_by_itself(draft, calibration):
    branches = calibration.rank(draft, draft.source, draft.graphs)
    layers = layers_of(draft.quantizable)
    assert branches.kept.keys() == layers.keys()
    draft.write(Kept())
    same(branches.without, score(calibration.run(draft.graphs)))
    changed = 0
    for layer, weights in layers.items():
        draft.write(Kept(inputs=weights))
        alone = score(calibration.run(draft.graphs))
        same(branches.kept[layer], alone)
        changed += np.abs(alone.losses - branches.without.losses).max() > 1e-6
    assert changed == len(layers)


def same(found, expected):
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
    np.testing.assert_array_equal(found.choices, expected.choices)
    assert found.experts.keys() == expected.experts.keys()
    for name, chosen in expected.experts.items():
        np.testing.assert_array_equal(found.experts[name], chosen)


def test_scores_do_not_depend_on_how_text_is_batched(draft, calibration, tiny_bundle):
    draft.write(Kept())
    for most_tokens in (1, 1000):
        other = CalibrationText(
            corpus=TEXT,
            architecture=calibration.architecture,
            variant=calibration.variant,
            most_tokens=most_tokens,
            scratch=calibration.scratch,
        )
        same(score(other.run(draft.source)), score(calibration.run(draft.source)))


def test_layers_without_a_product_have_no_branch(draft, calibration):
    decoder = calibration.run(draft.source, by_blocks=True).graphs["decoder"]
    layers = dict.fromkeys(["encoder.block.3", "decoder.block.1", names.EMBEDDING, "encoder.embed_tokens.weight"])
    assert places_of(layers, decoder) == {
        "encoder.block.3": ("encoder", 3),
        "decoder.block.1": ("decoder", 1),
        names.EMBEDDING: ("decoder", 4),
        "encoder.embed_tokens.weight": None,
    }
