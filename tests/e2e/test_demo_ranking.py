"""Layers of the demo model ranked in one pass, and what is kept for the limits, beside the long way to both."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from places import SHARED_DATA
from pointsman.bundle import read_manifest
from pointsman_calib.corpus.text import MOST_TOKENS, Corpus
from pointsman_calib.graphs.runs import graph_files
from pointsman_calib.rounding import round_blocks
from pointsman_calib.schemes.weight_only.draft import WeightOnlyDraft
from pointsman_calib.settle import CalibrationText, Kept, Limits, Scores, Trials, score, settle
from pointsman_calib.settle.calibration_text import RANKED_DOCUMENTS
from pointsman_calib.settle.search import layers_of

C4 = SHARED_DATA / "c4"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not C4.is_dir(), reason=f"needs C4 files in {C4}")]


@pytest.fixture(scope="module")
def calibration(demo, tmp_path_factory) -> CalibrationText:
    bundle = demo / "build" / "demo"
    manifest = read_manifest(bundle)
    return CalibrationText(
        corpus=Corpus.read(bundle, [C4 / "c4-train.sample-00000.json.gz"]),
        architecture=manifest.architecture,
        variant=manifest.variants["fused-float32"],
        most_tokens=MOST_TOKENS,
        scratch=tmp_path_factory.mktemp("draft"),
    )


@pytest.fixture(scope="module")
def draft(demo, calibration) -> WeightOnlyDraft:
    """In INT8, rounded to nearest, which does not hold its limits."""
    draft = WeightOnlyDraft(graph_files(demo / "build" / "demo", calibration.variant), "int8", calibration.scratch)
    draft.round(lambda _name: round_blocks)
    return draft


@pytest.fixture(scope="module")
def trials(draft, calibration) -> Trials:
    return calibration.beside(draft.source, draft.graphs, "int8")


def one_by_one(draft: WeightOnlyDraft, calibration: CalibrationText, exact: Scores) -> dict[str, float]:
    """What keeping each layer's inputs takes off the labels' changes of loss, in a run of its own for each."""

    def deviation(kept: Kept) -> float:
        draft.write(kept)
        found = score(calibration.run(draft.graphs, RANKED_DOCUMENTS))
        return found.deviation_from(exact.first_of(found))

    without = deviation(Kept())
    return {layer: without - deviation(Kept(inputs=weights)) for layer, weights in layers_of(draft.quantizable).items()}


@pytest.mark.timeout(1800)
def test_one_pass_ranks_as_one_run_for_each(draft, calibration, trials):
    expected = one_by_one(draft, calibration, trials.exact)
    branches = trials.ranking(draft)
    exact = trials.exact.first_of(branches.without)
    without = branches.without.deviation_from(exact)
    found = {layer: without - scores.deviation_from(exact) for layer, scores in branches.kept.items()}
    assert found == pytest.approx(expected, abs=0.02 * max(expected.values()))


@pytest.mark.timeout(1800)
def test_looking_on_little_text_keeps_about_what_all_of_it_would(draft, trials):
    """The limit lies between what nothing kept and all inputs kept reach: processors differ by a few labels."""

    def agreement(kept: Kept) -> float:
        draft.write(kept)
        return 100 * trials.judging().fidelity_to(trials.exact).agreement

    most = agreement(Kept(inputs=frozenset(draft.quantizable)))
    least = agreement(Kept())
    assert most > least
    limits = Limits(min_agreement=(least + most) / 2)
    draft.write(Kept())
    settled = settle(draft, limits, trials)
    assert limits.hold(settled.scores, trials.exact)
    draft.write(Kept())
    thorough = settle(draft, limits, replace(trials, trying=trials.judging))
    assert limits.hold(thorough.scores, trials.exact)
    layers: Callable[[Kept], int] = lambda kept: len(layers_of(kept.inputs | kept.weights))  # noqa: E731
    assert 0 < layers(thorough.kept) < len(layers_of(draft.quantizable))
    assert abs(layers(settled.kept) - layers(thorough.kept)) <= 2
    assert len(settled.kept.weights) <= len(thorough.kept.weights)
