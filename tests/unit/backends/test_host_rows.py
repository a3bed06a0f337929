"""Rows of many requests in one step on the CPU: they come and go, and what is left lies side by side."""

import tracemalloc

import numpy as np
import pytest

from pointsman.backends.base import Source
from pointsman.backends.cache_rows import CacheRows
from pointsman.backends.onnxruntime.backend import OnnxRuntimeBackend
from pointsman.backends.onnxruntime.host import encoded_blocks, host_rows
from pointsman.backends.onnxruntime.host.memory import Memory
from pointsman.backends.onnxruntime.host.slots import gaps_closed
from pointsman.bundle import SOURCE_BLOCK, names, source_blocks
from pointsman.decoding import Feed
from tolerances import FORMS as BETWEEN_FORMS


@pytest.fixture(scope="module")
def backend(exports) -> OnnxRuntimeBackend:
    bundle = exports("tied")
    (variant,) = bundle.manifest.variants.values()
    return OnnxRuntimeBackend(bundle.folder, variant, threads=1)


def source(rng: np.random.Generator, inputs: int, longest: int, rows: int) -> Source:
    ids = rng.integers(2, 128, (inputs, longest))
    mask = (np.arange(longest) < rng.integers(1, longest + 1, inputs)[:, None]).astype(np.int64)
    mask[0] = 1
    return Source(ids * mask, mask, rows=inputs * rows, room=100)


class Alone:
    """The same request in a state of its own, which is told of rows that are gone by feeding them anything."""

    def __init__(self, backend: OnnxRuntimeBackend, given: Source) -> None:
        self.state = backend.encode(given.input_ids, given.attention_mask, rows=given.rows, room=given.room)
        self.rows = np.arange(given.rows)
        self.all = given.rows

    def step(self, feed: Feed) -> np.ndarray:
        if feed.kept is not None:
            self.rows = self.rows[feed.kept]
        fed, parents = np.full((self.all, 1), 7), np.arange(self.all)
        fed[self.rows, 0], parents[self.rows] = feed.token_ids, self.rows[feed.parents]
        return self.state.step(fed, parents)[self.rows, 0]


class Request:
    """A random one: its beams change parents, and its inputs leave."""

    def __init__(self, rng: np.random.Generator, backend: OnnxRuntimeBackend) -> None:
        self.rng, self.each, inputs = rng, int(rng.integers(1, 5)), int(rng.integers(1, 4))
        self.source = source(rng, inputs, int(rng.integers(1, rng.choice([30, 30, 400, 1200]))), self.each)
        self.alone = Alone(backend, self.source)
        self.inputs, self.steps = inputs, 0

    def feed(self) -> Feed:
        kept = None
        if self.steps and self.inputs > 1 and self.rng.random() < 0.1:
            inputs = np.delete(np.arange(self.inputs), self.rng.integers(self.inputs))
            kept = (inputs[:, None] * self.each + np.arange(self.each)).ravel()
            self.inputs -= 1
        rows = np.arange(self.inputs * self.each)
        parents = rows
        if self.steps and self.rng.random() < 0.5:
            parents = rows // self.each * self.each + self.rng.integers(0, self.each, len(rows))
        self.steps += 1
        return Feed(self.rng.integers(2, 128, len(rows)), parents, kept)


@pytest.mark.parametrize("seed", range(6))
def test_rows_come_and_go_as_if_each_request_were_alone(backend, seed):
    stepper = backend.stepper()
    come_and_go(stepper, backend, np.random.default_rng(seed))
    assert stepper.bytes == 0


class Dirty(Memory):
    """What need not be zeros is NaN, and so is all that was given back, which is counted."""

    given_back = 0

    def arrays(self, specs, sizes, *, zeroed=False):
        found = super().arrays(specs, sizes, zeroed=zeroed)
        if not zeroed:
            found.memory[...] = 0xFF
        return found

    def give_back(self, arrays):
        arrays.memory[...] = 0xFF
        self.given_back += 1


@pytest.mark.parametrize("seed", range(6, 10))
def test_nothing_is_read_that_others_have_left_in_memory(backend, monkeypatch, seed):
    monkeypatch.setattr(backend, "_memory", Dirty(0))
    come_and_go(backend.stepper(), backend, np.random.default_rng(seed))


def test_what_a_state_leaves_behind_is_no_other_state_s(backend, monkeypatch):
    memory = Dirty(0)
    monkeypatch.setattr(backend, "_memory", memory)
    rng = np.random.default_rng(0)
    first, other = source(rng, 2, 9, 1), source(rng, 2, 9, 1)
    expected, found, gone = (Alone(backend, given) for given in (first, first, other))
    assert memory.given_back == 0
    del gone
    assert memory.given_back == 1
    feed = Feed(np.array([5, 6]), np.arange(2))
    BETWEEN_FORMS.check(found.step(feed), expected.step(feed))


@pytest.mark.parametrize("where", ["RowCaches.make_room", "HostStepper._bind"])
def test_a_step_that_fails_is_bound_anew(backend, monkeypatch, where):
    """What was bound before it may be memory of others by then."""
    rng, stepper = np.random.default_rng(0), backend.stepper()
    given = source(rng, 1, 8, 1)
    alone = Alone(backend, given)
    (rows,) = stepper.encode([given], pad_id=0)
    feed = Feed(np.array([5]), np.array([0]))
    BETWEEN_FORMS.check(stepper.step([(rows, feed)])[0], alone.step(feed))
    with monkeypatch.context() as patched:
        patched.setattr(stepper._inputs, "tidy", lambda: True)
        patched.setattr(f"pointsman.backends.onnxruntime.host.host_rows.{where}", failing)
        with pytest.raises(MemoryError):
            stepper.step([(rows, feed)])
    assert not stepper._is_bound
    BETWEEN_FORMS.check(stepper.step([(rows, feed)])[0], alone.step(feed))


def come_and_go(stepper, backend: OnnxRuntimeBackend, rng: np.random.Generator) -> None:
    """Step random requests, and compare each step with that of a backend that has the request alone."""
    running, left = [], 14
    while left or running:
        if left and (not running or rng.random() < 0.25):
            joining = [Request(rng, backend) for _ in range(min(left, rng.integers(1, 4)))]
            left -= len(joining)
            running += zip(stepper.encode([each.source for each in joining], pad_id=0), joining, strict=True)
        if rng.random() < 0.12:
            rows, _ = running.pop(int(rng.integers(len(running))))
            stepper.release(rows)
            continue
        feeds = [request.feed() for _, request in running]
        answers = stepper.step([(rows, feed) for (rows, _), feed in zip(running, feeds, strict=True)])
        for (_, request), feed, logits in zip(running, feeds, answers, strict=True):
            BETWEEN_FORMS.check(logits, request.alone.step(feed), f"step {request.steps}")


def steps(stepper, rows, count: int) -> None:
    feeds = [(each, Feed(np.full(len(each.slots), 9), np.arange(len(each.slots)))) for each in rows]
    for _ in range(count):
        stepper.step(feeds)


def test_a_steady_step_allocates_nothing(backend):
    """But for a few objects: neither logits nor caches nor what is fed."""
    rng, stepper = np.random.default_rng(0), backend.stepper()
    rows = stepper.encode([source(rng, inputs, 9, 1) for inputs in (1, 4, 3)], pad_id=0)
    steps(stepper, rows, 3)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    steps(stepper, rows, 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    logits = 8 * 128 * 4
    assert peak - before < logits


def held(stepper) -> tuple[int, int, int]:
    """Slots of blocks and of rows, and how many tokens a row has room for."""
    (encoded, *_), (cache, *_) = stepper._inputs._held.by_name.values(), stepper._caches.arrays.values()
    return len(encoded), len(cache), cache.shape[2]


def test_memory_is_given_back_when_the_long_and_the_many_have_left(backend):
    """Not at once: others like them may come."""
    rng, stepper = np.random.default_rng(0), backend.stepper()
    (long,) = stepper.encode([source(rng, 1, 12 * SOURCE_BLOCK, 1)], pad_id=0)
    assert held(stepper)[0] == 12
    steps(stepper, [long], 70)
    (many,) = stepper.encode([source(rng, 6, 10, 2)], pad_id=0)
    (short,) = stepper.encode([source(rng, 1, 12, 1)], pad_id=0)
    steps(stepper, [long, many, short], 1)
    before = held(stepper)
    assert before[0] >= 12 + 7
    assert before[2] == 96
    stepper.release(long)
    stepper.release(many)
    steps(stepper, [short], 16)
    assert held(stepper) == before
    steps(stepper, [short], 1)
    assert held(stepper) == (1, 1, 32)
    stepper.release(short)
    assert stepper.bytes == 0


def test_short_inputs_beside_a_long_one_are_not_padded_to_it(backend):
    rng, stepper = np.random.default_rng(0), backend.stepper()
    given = [source(rng, 1, tokens, 1) for tokens in (8 * SOURCE_BLOCK, 1, SOURCE_BLOCK, SOURCE_BLOCK + 1)]
    rows = stepper.encode(given, pad_id=0)
    assert held(stepper)[0] == 8 + 1 + 1 + 2
    steps(stepper, rows, 1)
    read = stepper._inputs.read(stepper._row_inputs)
    assert len(read[names.ATTENTION_MASK]) == 8 + 1 + 1 + 2
    stepper.release(rows[0])
    stepper.release(rows[3])
    steps(stepper, rows[1:3], 1)
    read = stepper._inputs.read(stepper._row_inputs)
    assert read[names.ATTENTION_MASK].sum(1).tolist() == [1, SOURCE_BLOCK]
    assert read[names.ATTENDED_PLACES].shape[-1] == 1


@pytest.mark.parametrize("rising", [True, False])
def test_inputs_that_come_one_by_one_are_not_all_copied_each_time(backend, monkeypatch, rising):
    """What is copied of keys and values, beside what is encoded."""
    rng, stepper, copied = np.random.default_rng(0), backend.stepper(), 0
    lengths = [*range(2, 130, 2)]
    copy = encoded_blocks._copy

    def counted(target, values):
        nonlocal copied
        copied += values.nbytes
        copy(target, values)

    monkeypatch.setattr(encoded_blocks, "_copy", counted)
    monkeypatch.setattr(host_rows, "run", lambda *_: None)
    for tokens in lengths if rising else rng.permutation(lengths):
        stepper.encode([source(rng, 1, tokens, 1)], pad_id=0)
    each = [array.nbytes // array.shape[0] // SOURCE_BLOCK for array in stepper._inputs._held.by_name.values()]
    assert len(stepper._inputs) == len(lengths)
    tokens = SOURCE_BLOCK * sum(map(source_blocks, lengths))
    assert copied < 4 * tokens * sum(each)


def test_what_one_request_leaves_behind_does_no_harm_to_the_next(backend):
    """Not even if it was no number: what is masked is multiplied by zero, and must be finite."""
    rng, stepper = np.random.default_rng(0), backend.stepper()
    stays, leaves = stepper.encode([source(rng, 1, 20, 1), source(rng, 1, 20, 1)], pad_id=0)
    steps(stepper, [stays, leaves], 2)
    for arrays, slot in ((stepper._inputs._held.by_name, 1), (stepper._caches.arrays, 1)):
        for array in arrays.values():
            array[slot] = np.nan
    stepper.release(leaves)
    (joins,) = stepper.encode([source(rng, 1, 5, 1)], pad_id=0)
    for logits in stepper.step([(each, Feed(np.array([3]), np.array([0]))) for each in (stays, joins)]):
        assert np.isfinite(logits).all()


def test_what_a_longer_request_leaves_in_a_slot_does_no_harm_to_who_moves_there(backend):
    rng, stepper = np.random.default_rng(0), backend.stepper()
    (long,) = stepper.encode([source(rng, 1, 20, 1)], pad_id=0)
    steps(stepper, [long], 6)
    (short,) = stepper.encode([source(rng, 1, 20, 1)], pad_id=0)
    steps(stepper, [long, short], 2)
    for array in stepper._caches.arrays.values():
        array[long.slots, :, 3:8] = np.nan  # of its eight tokens
    stepper.release(long)
    for _ in range(3):
        (logits,) = stepper.step([(short, Feed(np.array([3]), np.array([0])))])
        assert np.isfinite(logits).all()


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_what_is_no_number_in_one_request_reaches_no_other(backend, broken):
    """Neither by shorter inputs' missing blocks, nor by inputs with fewer rows."""
    rng, stepper = np.random.default_rng(0), backend.stepper()
    given = [source(rng, 1, tokens, rows) for tokens, rows in ((150, 1), (10, 2), (300, 3))]
    rows = stepper.encode(given, pad_id=0)
    slots = np.flatnonzero(stepper._inputs._owners == [1, 0, 2][broken])  # the shortest is encoded first
    for array in stepper._inputs._held.by_name.values():
        array[slots] = np.nan
    for array in stepper._caches.arrays.values():
        array[rows[broken].slots] = np.nan
    feeds = [(each, Feed(np.arange(len(each.slots)), np.arange(len(each.slots)))) for each in rows]
    stepper.step(feeds)
    answers = stepper.step(feeds)
    assert [bool(np.isfinite(logits).all()) for logits in answers] == [number != broken for number in range(3)]


def failing(*_):
    raise MemoryError


@pytest.mark.parametrize("where", ["host_rows.run", "host_rows.RowCaches.add"])
def test_an_encoder_that_fails_leaves_the_others_as_they_were(backend, monkeypatch, where):
    rng, stepper = np.random.default_rng(0), backend.stepper()
    given = source(rng, 1, 8, 1)
    alone = Alone(backend, given)
    (rows,) = stepper.encode([given], pad_id=0)
    with monkeypatch.context() as patched:
        patched.setattr(f"pointsman.backends.onnxruntime.host.{where}", failing)
        with pytest.raises(MemoryError):
            stepper.encode([source(rng, 2, 30, 1)], pad_id=0)
        empty = backend.stepper()
        with pytest.raises(MemoryError):
            empty.encode([given], pad_id=0)
        assert empty.bytes == 0
    for token in (0, 5, 9):
        feed = Feed(np.array([token]), np.array([0]))
        BETWEEN_FORMS.check(stepper.step([(rows, feed)])[0], alone.step(feed))


@pytest.mark.parametrize("seed", range(20))
def test_gaps_are_closed_by_moving_the_last(seed):
    rng = np.random.default_rng(seed)
    slots = int(rng.integers(1, 12))
    kept = np.flatnonzero(rng.random(slots) < 0.6)
    moves, renamed = gaps_closed(kept, slots)
    values = np.arange(slots)
    moved = [*moves]
    for target, place in moved:
        values[target] = values[place]
    assert sorted(values[: len(kept)]) == kept.tolist()
    assert values[renamed[kept]].tolist() == kept.tolist()
    assert len(moved) == (kept >= len(kept)).sum()


def test_places_of_rows_whose_inputs_stay():
    rows = CacheRows(6)
    rows.follow(np.array([1, 1, 3, 2, 5, 4]), 3)
    before = rows.to_places(np.arange(6))
    staying = rows.keep(np.array([0, 1, 4, 5]))
    assert staying.tolist() == [0, 1, 4, 5]
    assert rows.to_places(np.array([0, 1, 4, 5])).tolist() == before[staying].tolist()
    assert CacheRows(4).keep(np.array([2, 3])).tolist() == [2, 3]
