"""What is kept in float, on a draft whose layers cost what a table says: the fewest layers, in the right order."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from pointsman.errors import OptionsError
from pointsman_calib.settle import Kept, Limits, Scores, Trials, measured, settle
from pointsman_calib.settle.ranking import Branches
from pointsman_calib.settle.search import layers_of

LABELS = TOKENS = 1000
WEIGHTS = {
    "encoder.block.0": ("encoder.block.0.layer.0.q.weight", "encoder.block.0.layer.1.wo.weight"),
    "encoder.block.1": ("encoder.block.1.layer.0.q.weight",),
    "decoder.block.0": ("decoder.block.0.layer.0.q.weight", "decoder.block.0.layer.2.wo.weight"),
    "shared.weight": ("shared.weight",),
}
# For each layer, labels that say something else, and tokens that go to another expert: quantized, and with its inputs
# kept. With its weights kept, there are none.
LABELS_CHANGED = {
    "encoder.block.0": (40, 10),
    "encoder.block.1": (6, 2),
    "decoder.block.0": (100, 30),
    "shared.weight": (20, 0),
}
TOKENS_MOVED = {
    "encoder.block.0": (10, 4),
    "encoder.block.1": (50, 2),
    "decoder.block.0": (0, 0),
    "shared.weight": (30, 6),
}


@dataclass
class FakeDraft:
    """Notes what it is asked to write."""

    kept: Kept = field(default_factory=Kept)
    written: list[Kept] = field(default_factory=list)
    quantizable = tuple(weight for weights in WEIGHTS.values() for weight in weights)

    def write(self, kept: Kept) -> None:
        self.kept = kept
        self.written.append(kept)

    def changed(self, table: dict[str, tuple[int, int]]) -> int:
        """How many labels or tokens change as it is written."""
        return sum(table[layer][self.step(layer)] for layer in WEIGHTS if self.step(layer) < 2)

    def step(self, layer: str) -> int:
        """0 where a layer is quantized, 1 where its inputs are kept, 2 where its weights are."""
        weights = set(WEIGHTS[layer])
        return 2 if weights <= self.kept.weights else int(weights <= self.kept.inputs)


class FakeTrials:
    """Scores a draft by the tables; of the beginning, a fifth of all changes are seen. Counts how often it is run.

    Where it is tried on the beginning before it is judged, `luck` is how many times as many changes are seen there.
    """

    def __init__(self, draft: FakeDraft, luck: float | None = None) -> None:
        self.draft, self.luck = draft, luck
        self.judged, self.tried, self.ranked = 0, 0, 0
        judging = self.judging
        trying = judging if luck is None else self.trying
        self.trials = Trials(judging=judging, trying=trying, ranking=self.ranking, exact=scores(0, 0, 1))

    def judging(self) -> Scores:
        self.judged += 1
        return scores(self.draft.changed(LABELS_CHANGED), self.draft.changed(TOKENS_MOVED), 1)

    def trying(self) -> Scores:
        assert self.luck is not None
        self.tried += 1
        changed = (int(self.luck * self.draft.changed(table)) for table in (LABELS_CHANGED, TOKENS_MOVED))
        return scores(*changed, 5)

    def ranking(self, draft: FakeDraft) -> Branches:
        assert draft is self.draft
        self.ranked += 1
        found = {layer: self._beginning(kept(inputs=[layer])) for layer in WEIGHTS}
        return Branches(self._beginning(Kept()), found)

    def _beginning(self, kept: Kept) -> Scores:
        self.draft.write(kept)
        return scores(self.draft.changed(LABELS_CHANGED), self.draft.changed(TOKENS_MOVED), 5)


def scores(labels: int, tokens: int, part: int) -> Scores:
    """Of a part of the text. Every other changed label gets worse by as much as its neighbours get better."""
    losses, choices = np.full(LABELS // part, 2.0), np.zeros(LABELS // part, np.int64)
    experts = np.zeros(TOKENS // part, np.int64)
    changed = labels // part
    losses[: changed // 2], losses[changed // 2 : changed] = 1.0, 3.0
    choices[:changed], experts[: tokens // part] = 1, 1
    return Scores(losses, choices, {"router": experts})


def kept(*, inputs=(), weights=()) -> Kept:
    of = lambda layers: frozenset(weight for layer in layers for weight in WEIGHTS[layer])  # noqa: E731
    return Kept(of(inputs), of(weights))


@pytest.fixture
def draft() -> FakeDraft:
    return FakeDraft()


@pytest.fixture
def fake(draft) -> FakeTrials:
    return FakeTrials(draft)


def test_nothing_is_kept_where_limits_hold_at_once(draft, fake):
    settled = settle(draft, Limits(max_loss_increase=1, min_agreement=83), fake.trials)
    assert settled.kept == Kept()
    assert settled.costs == settled.rerouted == {}
    assert settled.scores is settled.without
    assert (draft.written, fake.judged, fake.ranked) == ([], 1, 0)


@pytest.mark.parametrize(
    ("least", "expected"),
    [
        (88, kept(inputs=["decoder.block.0"])),
        (93, kept(inputs=["decoder.block.0", "encoder.block.0"])),
        (95, kept(inputs=["decoder.block.0", "encoder.block.0", "shared.weight"])),
        (95.8, kept(inputs=WEIGHTS)),
        (98, kept(inputs=["encoder.block.0", "shared.weight", "encoder.block.1"], weights=["decoder.block.0"])),
        (99.8, kept(inputs=["shared.weight", "encoder.block.1"], weights=["decoder.block.0", "encoder.block.0"])),
    ],
)
def test_the_fewest_of_the_costliest_are_kept_inputs_before_weights(draft, fake, least, expected):
    settled = settle(draft, Limits(min_agreement=least), fake.trials)
    assert settled.kept == draft.kept == expected
    assert settled.scores.agreement_with(fake.trials.exact) >= least / 100
    assert settled.without.agreement_with(fake.trials.exact) == pytest.approx(1 - 166 / LABELS)


@pytest.mark.parametrize(
    ("luck", "judged"),
    [
        (1, 3),  # nothing kept, what was found on the beginning, and one layer less
        (0.2, 4),  # there, one layer seems enough: it is judged, then two, and three
        (3, 5),  # there, more seems needed: it is judged, and then less and less
    ],
)
def test_what_holds_on_the_beginning_is_judged_on_all(draft, luck, judged):
    fake = FakeTrials(draft, luck)
    settled = settle(draft, Limits(min_agreement=95), fake.trials)
    ranked = ["decoder.block.0", "encoder.block.0", "shared.weight", "encoder.block.1"]
    least = kept(inputs=ranked[:3])
    assert settled.kept == least
    assert draft.kept == settled.kept
    assert settled.scores.agreement_with(fake.trials.exact) >= 0.95
    assert fake.tried == 3
    assert fake.judged == judged


def test_limits_that_hold_on_the_beginning_alone(draft):
    fake = FakeTrials(draft, 1)  # of four changed labels, it has none
    with pytest.raises(OptionsError, match="no layer can be quantized"):
        settle(draft, Limits(min_agreement=100), fake.trials)


def test_layers_are_ranked_on_the_beginning(draft, fake):
    settled = settle(draft, Limits(min_agreement=95), fake.trials)
    assert fake.ranked == 1
    assert fake.judged <= 1 + 3  # eight steps take three bisections
    assert list(settled.costs) == ["decoder.block.0", "encoder.block.0", "shared.weight", "encoder.block.1"]
    assert list(settled.rerouted) == ["encoder.block.1", "shared.weight", "encoder.block.0", "decoder.block.0"]
    # Magnitudes: the mean loss itself does not move. Of 166 changed labels the beginning has 33, of 96 it has 19.
    assert settled.costs["decoder.block.0"] == pytest.approx((33 - 19) / 200)
    assert settled.rerouted["encoder.block.1"] == pytest.approx((18 - 8) / 200)


@pytest.mark.parametrize(
    ("limits", "layers"),
    [
        (Limits(min_expert_agreement=95), ["encoder.block.1"]),
        (Limits(min_expert_agreement=95, min_agreement=88), ["encoder.block.1", "decoder.block.0"]),
    ],
)
def test_routes_are_mended_first_and_by_a_ranking_of_their_own(draft, fake, limits, layers):
    settled = settle(draft, limits, fake.trials)
    assert settled.kept == draft.kept == kept(inputs=layers)
    assert settled.scores.rerouted_from(fake.trials.exact) <= 0.05


def test_a_loss_that_rises_counts(draft, fake):
    exact = fake.trials.exact
    worse = Trials(
        judging=lambda: Scores(exact.losses + draft.changed(LABELS_CHANGED) / LABELS, exact.choices, exact.experts),
        trying=fake.judging,
        ranking=fake.ranking,
        exact=exact,
    )
    worse = replace(worse, trying=worse.judging)
    settled = settle(draft, Limits(max_loss_increase=4), worse)
    assert settled.kept == kept(inputs=["decoder.block.0", "encoder.block.0"])
    assert settled.scores.increase_over(exact) == pytest.approx(0.033)


def test_limits_that_nothing_but_float_holds(draft, fake):
    with pytest.raises(OptionsError) as raised:
        settle(draft, Limits(min_agreement=100), fake.trials)
    assert str(raised.value) == (
        "no layer can be quantized within these limits; loosen `max_loss_increase`, `min_agreement` or "
        "`min_expert_agreement`"
    )


def test_what_a_manifest_says_of_it(draft, fake):
    settled = settle(draft, Limits(min_agreement=98), fake.trials)
    sensitivity = measured(settled, scores(500, 100, 1), fake.trials.exact)
    assert (sensitivity.labels, sensitivity.loss) == (LABELS, 2.0)
    assert (sensitivity.nearest.agreement, sensitivity.nearest.expert_agreement) == (0.5, 0.9)
    assert sensitivity.reached.agreement == pytest.approx(1 - 12 / LABELS)
    assert sensitivity.float_weights == WEIGHTS["decoder.block.0"]
    assert sensitivity.fine_inputs == (*WEIGHTS["encoder.block.0"], *WEIGHTS["encoder.block.1"], "shared.weight")
    assert (sensitivity.costs, sensitivity.rerouted) == (settled.costs, settled.rerouted)


def test_weights_of_no_block_are_layers_of_their_own():
    found = layers_of([*FakeDraft.quantizable, "lm_head.weight"])
    assert found == {layer: frozenset(weights) for layer, weights in WEIGHTS.items()} | {
        "lm_head.weight": frozenset(["lm_head.weight"])
    }


def test_weights_that_are_kept_keep_their_inputs_too():
    both = kept(inputs=["encoder.block.0", "encoder.block.1"]) | kept(weights=["encoder.block.0"])
    assert both == kept(inputs=["encoder.block.1"], weights=["encoder.block.0"])
