"""ONNX Runtime's GPU path with the host in the place of the GPU: tokens are those of its CPU path."""

import weakref

import numpy as np
import pytest

from pointsman import DecodingOptions, SwitchModel
from pointsman.backends.gpu.staging import array_at
from pointsman.backends.onnxruntime.cuda import BucketedShapes
from pointsman.decoding import SentinelConstraint
from pointsman.errors import OptionsError
from unit.backends.conftest import VARIANT
from unit.backends.host_onnxruntime import on_the_host
from unit.backends.test_tensorrt_backend import CASES, INPUTS, check

OPTIONS = DecodingOptions(max_new_tokens=4)


@pytest.fixture(scope="module")
def reference(exported):
    return SwitchModel.load(exported, device="cpu", variant=VARIANT, threads=1)


@pytest.fixture
def model(exported):
    return on_the_host(exported, VARIANT)


@pytest.mark.parametrize("inputs", [INPUTS, INPUTS[:1], INPUTS * 4], ids=len)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_tokens_and_scores(model, reference, case, inputs):
    """Three inputs are run as four, and twelve as sixteen."""
    options = DecodingOptions(max_new_tokens=14, **case)
    expected = reference.generate(inputs, options)
    for _ in range(3):  # done, recorded, replayed
        check(model.generate(inputs, options), expected)
    assert model.backend.decoder.replays.refusal is None


def test_constrained(model, reference):
    options = DecodingOptions(num_beams=3, max_new_tokens=12)
    constraint = SentinelConstraint(
        [[127, 126], [127], [125]],
        all_sentinels=list(range(127, 107, -1)),
        tokens=reference.special_tokens,
        options=options,
    )
    check(
        model.generate(INPUTS, options, constraint=constraint),
        reference.generate(INPUTS, options, constraint=constraint),
    )


def test_scores_of_targets_that_fit(model, reference):
    targets = [[9, 8, 7, 1], [4, 1], [11, 12, 13, 14, 15, 1]]
    for ours, theirs in zip(model.score(INPUTS, targets), reference.score(INPUTS, targets), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_targets_past_the_capacity_are_refused(model):
    """Drops are counted over a whole target, and a step takes one position."""
    capacity = model.manifest.variants[VARIANT].capacity
    with pytest.raises(OptionsError, match=rf"capacity of {capacity} is counted over all of it, .* takes 1 at a time"):
        model.score(INPUTS[:1], [[9] * (capacity + 1)])


@pytest.fixture
def steps(model):
    """The lengths of the first row in each step that is run."""
    decoder, seen = model.backend.decoder, []
    run, names = decoder.run, [spec.name for spec in decoder._specs.inputs]

    def watched(sizes, addresses):
        seen.append(int(array_at(addresses[names.index("lengths")], (1,), np.int64)[0]))
        run(sizes, addresses)

    decoder.run = watched
    return seen


def test_greedy_steps_begin_before_the_host_has_seen_the_last(model, reference, steps):
    """Each is run once: the likeliest token is what greedy search takes; none is run behind the last."""
    options = DecodingOptions(max_new_tokens=14)
    ((expected,),) = reference.generate(INPUTS[:1], options)
    check(model.generate(INPUTS[:1], options), [[expected]])
    assert len(expected.token_ids) == 14
    assert steps == [*range(14)]


def test_rows_that_have_ended_do_not_hold_up_the_others(model, reference, steps):
    """Some end before others; what they are fed then matters to nobody."""
    options = DecodingOptions(max_new_tokens=40)
    expected = reference.generate(INPUTS * 3, options)
    lengths = {len(best.token_ids) for (best,) in expected}
    check(model.generate(INPUTS * 3, options), expected)
    assert len(lengths) > 1
    assert steps[: max(lengths)] == [*range(max(lengths))]
    assert len(steps) <= max(lengths) + 1  # that of the end, where it is not the last that may be


def test_wrong_guesses_become_rare(model, reference, steps):
    """A step that was begun with a token that rules forbid is done again in its place."""
    options = DecodingOptions(max_new_tokens=60, min_new_tokens=60, no_repeat_ngram_size=1)
    check(model.generate(INPUTS[:1], options), reference.generate(INPUTS[:1], options))
    assert sorted(set(steps)) == [*range(60)]
    assert steps == sorted(steps)
    assert 60 < len(steps) <= 72


def test_beams_are_not_guessed(model, reference, steps):
    options = DecodingOptions(max_new_tokens=9, min_new_tokens=9, num_beams=3)
    check(model.generate(INPUTS, options), reference.generate(INPUTS, options))
    assert steps == [*range(9)]


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ((1, 1, 1, 1), {"batch": 1, "source": 32, "rows": 1, "width": 1, "capacity": 64}),
        ((3, 33, 4, 65), {"batch": 4, "source": 64, "rows": 16, "width": 4, "capacity": 128}),
        ((9, 129, 1, 500), {"batch": 16, "source": 256, "rows": 16, "width": 1, "capacity": 512}),
        ((8, 128, 2, 64), {"batch": 8, "source": 128, "rows": 16, "width": 2, "capacity": 64}),
    ],
)
def test_shapes(asked, got):
    assert BucketedShapes().of(*asked) == {**got, "positions": 1}


@pytest.mark.parametrize("load", [on_the_host, lambda bundle, name: SwitchModel.load(bundle, "cpu", name, threads=1)])
def test_closing_gives_sessions_back_at_once(exported, load):
    model = load(exported, VARIANT)
    for _ in range(3):
        model.generate(INPUTS, OPTIONS)
    held = [weakref.ref(thing) for thing in (model.backend, model.backend.encoder, model.backend.decoder)]
    model.close()
    assert [one() for one in held] == [None] * 3


def test_later_requests_find_what_was_recorded(model):
    """One after another, and without further memory."""
    options, device = DecodingOptions(max_new_tokens=9, num_beams=2), model.backend.gpu
    for _ in range(3):
        model.generate(INPUTS, options)
    held, known = sum(device.live.values()), list(model.backend.decoder.replays._known)
    for _ in range(3):
        model.generate(INPUTS, options)
    assert sum(device.live.values()) == held
    assert list(model.backend.decoder.replays._known) == known
