"""Rows of many requests in one step on a GPU, with the host in its place: they come and go as if each were alone."""

import numpy as np
import pytest

from pointsman import DecodingOptions, SwitchModel
from pointsman.backends.gpu.shared_steps import GpuStepper
from pointsman.backends.gpu.staging import array_at
from pointsman.decoding import Feed
from pointsman.decoding.step import Wanted
from pointsman.running import Request as Asked
from tolerances import FORMS as BETWEEN_FORMS
from tolerances import SCORE
from unit.backends.conftest import VARIANT
from unit.backends.host_onnxruntime import on_the_host
from unit.backends.test_host_rows import come_and_go, source


@pytest.fixture(scope="module")
def reference(exported):
    return SwitchModel.load(exported, device="cpu", variant=VARIANT, threads=1)


@pytest.fixture(scope="module")
def model(exported):
    return on_the_host(exported, VARIANT)


@pytest.mark.parametrize("seed", range(3))
def test_rows_come_and_go_as_if_each_request_were_alone(model, reference, seed):
    stepper = model.backend.stepper()
    assert isinstance(stepper, GpuStepper)
    come_and_go(stepper, reference.backend, np.random.default_rng(seed))


def test_some_requests_select_while_others_take_all_logits(model, reference):
    rng, stepper = np.random.default_rng(0), model.backend.stepper()
    given = [source(rng, 2, 7, 1), source(rng, 1, 40, 3), source(rng, 3, 12, 1)]
    rows = stepper.encode(given, pad_id=0)
    alone = [reference.backend.encode(each.input_ids, each.attention_mask, rows=each.rows, room=9) for each in given]
    for _ in range(3):
        fed = [rng.integers(2, 128, each.rows) for each in given]
        own = [np.arange(each.rows) for each in given]
        wanted = [Wanted(np.tile([3, 9], (2, 1)), 4), None, Wanted(np.zeros((3, 0), np.int64), 2)]
        answers = stepper.step([(r, Feed(*each, None, w)) for r, w, *each in zip(rows, wanted, fed, own, strict=True)])
        first, second, third = (
            state.step(ids[:, None], each)[:, 0] for state, ids, each in zip(alone, fed, own, strict=True)
        )
        BETWEEN_FORMS.check(answers[1], second)
        BETWEEN_FORMS.check(answers[0].named_logits, first[:, [3, 9]])
        first[:, [3, 9]] = -np.inf
        assert answers[0].best_ids.tolist() == np.argsort(-first, axis=1, kind="stable")[:, :4].tolist()
        assert answers[2].best_ids.tolist() == np.argsort(-third, axis=1, kind="stable")[:, :2].tolist()


def test_steps_are_replayed_while_rows_come_and_go(exported):
    """The shapes of later requests are those of earlier ones."""
    model = on_the_host(exported, VARIANT)
    stepper, rng = model.backend.stepper(), np.random.default_rng(0)
    replays, counts = model.backend.decoder.replays, []
    for _ in range(4):
        known = len(replays._known)
        rows = stepper.encode([source(rng, 3, 9, 1)], pad_id=0)[0]
        for _ in range(6):
            stepper.step([(rows, Feed(np.full(3, 9), np.arange(3)))])
        stepper.release(rows)
        counts.append(len(replays._known) - known)
    assert counts[1:] == [0, 0, 0]
    assert replays.refusal is None


CASES = [
    {},
    {"num_beams": 4, "num_return_sequences": 2},
    {"do_sample": True, "seed": 3, "num_return_sequences": 2},
    {"min_new_tokens": 9, "repetition_penalty": 1.3},
    {"num_beams": 3, "no_repeat_ngram_size": 2, "length_penalty": 0.6},
]


@pytest.mark.parametrize("seed", range(3))
def test_mixtures_of_requests_are_answered_as_if_each_were_alone(model, reference, seed):
    rng = np.random.default_rng(seed)
    asked = []
    for _ in range(12):
        options = DecodingOptions(max_new_tokens=int(rng.integers(9, 24)), **CASES[rng.integers(len(CASES))])
        ids = [[*rng.integers(2, 127, rng.integers(1, 50)).tolist(), 1] for _ in range(rng.integers(1, 4))]
        asked.append(Asked(ids, options))
    loop, waiting, running = model.running(), [*asked], {}
    while waiting or len(loop):
        if waiting and (not len(loop) or rng.random() < 0.4):
            joining = [waiting.pop() for _ in range(min(len(waiting), rng.integers(1, 4)))]
            running |= {id(entry): (entry, each) for entry, each in zip(loop.join(joining), joining, strict=True)}
        for progress in loop.step():
            assert progress.error is None
    for entry, each in running.values():
        expected = reference.generate(each.input_ids, each.options)
        found = entry.search.generations()
        assert [[g.token_ids for g in of] for of in found] == [[g.token_ids for g in of] for of in expected]
        for mine, other in zip([g for of in found for g in of], [g for of in expected for g in of], strict=True):
            SCORE.check(mine.score, other.score)


def test_addresses_recur_though_longer_inputs_and_outputs_join(exported):
    """What is held moves between two pieces of memory, and shapes come back to where they were."""
    model = on_the_host(exported, VARIANT)
    stepper, rng, known = model.backend.stepper(), np.random.default_rng(0), model.backend.decoder.replays._known
    counts = []
    for _ in range(6):
        short = stepper.encode([source(rng, 1, 9, 1)], pad_id=0)[0]
        stepper.step([(short, Feed(np.full(1, 9), np.arange(1)))])
        long = stepper.encode([source(rng, 1, 60, 1)], pad_id=0)[0]
        for _ in range(3):
            stepper.step([(rows, Feed(np.full(1, 9), np.arange(1))) for rows in (short, long)])
        stepper.release(short)
        stepper.release(long)
        counts.append(len(known))
    assert counts[-1] == counts[-2] == counts[-3]


def test_what_one_request_leaves_behind_does_no_harm_to_the_next(model, reference):
    """Not even what is no number: it would go into sums with weight zero."""
    rng, stepper = np.random.default_rng(0), model.backend.stepper()
    given = source(rng, 2, 30, 2)
    gone = stepper.encode([given], pad_id=0)[0]
    stepper.step([(gone, Feed(np.full(4, 9), np.arange(4)))])
    for slots in (stepper._inputs, stepper._caches):
        array_at(slots._memory.address, (slots._memory.size,), np.uint8)[:] = 0xFF  # NaN, as float32
    stepper.release(gone)
    after = source(rng, 2, 12, 2)
    rows = stepper.encode([after], pad_id=0)[0]
    alone = reference.backend.encode(after.input_ids, after.attention_mask, rows=4, room=9)
    for _ in range(3):
        fed, own = rng.integers(2, 128, 4), np.arange(4)
        (logits,) = stepper.step([(rows, Feed(fed, own))])
        BETWEEN_FORMS.check(logits, alone.step(fed[:, None], own)[:, 0])
