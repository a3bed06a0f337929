"""The selection kernel: its C, run on the host, against the definition; and its CUDA, compiled without a GPU."""

import numpy as np
import pytest

from pointsman.backends.gpu.cuda import compiled
from pointsman.backends.gpu.selection import Selector, kernel_source
from pointsman.errors import DeviceError
from tolerances import SCORE
from unit.backends.host_device import HostDevice
from unit.decoding.selecting import selected


@pytest.fixture(scope="module")
def select():
    device = HostDevice()
    selector = Selector(device)

    def run(logits, named_ids, count, lengths=None):
        rows, vocabulary = logits.shape
        named = named_ids.shape[1]
        sizes = [
            4 * n for n in (logits.size, max(named_ids.size, 1), max(rows * named, 1), rows * count, rows * count, rows)
        ]
        memories = [device.allocate(size) for size in sizes]
        view = [np.frombuffer(m._array, np.float32, m.size // 4, m.address - m._array.ctypes.data) for m in memories]
        view[0][:] = logits.ravel()
        view[1].view(np.int32)[: named_ids.size] = named_ids.ravel()
        addresses = [m.address for m in memories]
        following = [np.zeros(rows, np.int32), np.zeros(rows, np.int64), lengths]
        pointers = (0, 0, 0) if lengths is None else tuple(each.ctypes.data for each in following)
        selector.enqueue(addresses[0], addresses[1], tuple(addresses[2:]), (rows, vocabulary, named, count), pointers)
        assert (following[0] == following[1]).all()
        run.likeliest = following[0]
        shaped = view[2][: rows * named].reshape(rows, named), view[3].view(np.int32).reshape(rows, count)
        return *(a.copy() for a in shaped), view[4].reshape(rows, count).copy(), view[5].copy()

    return run


def logits_of(kind, rows, vocabulary):
    rng = np.random.default_rng(3)
    logits = (4 * rng.standard_normal((rows, vocabulary))).astype(np.float32)
    if kind == "ties":
        return np.round(logits / 4) * np.float32(-0.0 if rows == 1 else 1)
    if kind == "falling":
        return np.sort(logits, axis=1)[:, ::-1].copy()
    return logits


@pytest.mark.parametrize("kind", ["random", "ties", "falling"])
@pytest.mark.parametrize(
    ("rows", "vocabulary", "named", "count"), [(1, 40, 0, 1), (3, 257, 5, 12), (2, 1001, 130, 64), (1, 9, 3, 6)]
)
def test_it_is_what_selection_means(select, kind, rows, vocabulary, named, count):
    logits = logits_of(kind, rows, vocabulary)
    named_ids = np.random.default_rng(1).integers(0, vocabulary, (rows, named))  # some repeated
    expected = selected(logits, named_ids, count)
    named_logits, best_ids, best_logits, log_total = select(logits, named_ids, count)
    assert (named_logits == expected.named_logits).all()
    finite = np.isfinite(expected.best_logits)
    assert (best_ids[finite] == expected.best_ids[finite]).all()
    assert (best_logits == expected.best_logits).all()
    SCORE.check(log_total, expected.log_total)


@pytest.mark.parametrize("kind", ["random", "ties", "falling"])
@pytest.mark.parametrize(("rows", "vocabulary", "named"), [(1, 40, 0), (3, 257, 5), (2, 100, 100)])
def test_what_the_next_step_begins_with(select, kind, rows, vocabulary, named):
    """The first of the likeliest tokens, whether or not it is named, behind one more."""
    logits = logits_of(kind, rows, vocabulary)
    named_ids = np.argsort(-logits, axis=1, kind="stable")[:, :named]  # the best ones
    lengths = np.arange(rows) + 7
    select(logits, named_ids, 1, lengths)
    assert select.likeliest.tolist() == logits.argmax(axis=1).tolist()
    assert lengths.tolist() == [8 + row for row in range(rows)]


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
def test_what_is_not_finite_shows_in_the_total(select, bad):
    logits = logits_of("random", 2, 100)
    logits[1, 77] = bad
    *_, log_total = select(logits, np.zeros((2, 1), np.int64), 2)
    assert np.isfinite(log_total).tolist() == [True, False]


def test_minus_infinity_is_a_score_like_others(select):
    logits = np.full((1, 20), -np.inf, np.float32)
    logits[0, 4] = 2.0
    _, best_ids, best_logits, log_total = select(logits, np.zeros((1, 1), np.int64), 2)
    assert (best_ids[0, 0], best_logits[0, 0], log_total[0]) == (4, 2.0, 2.0)
    *_, log_total = select(logits, np.array([[4]]), 2)
    assert log_total[0] == -np.inf


@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"])
def test_it_compiles_for_every_gpu(capability):
    image = compiled(kernel_source(), capability, {"THREADS": 512})
    assert image.startswith(b"\x7fELF")
    assert b"select_best" in image


def test_what_cannot_be_compiled_for():
    with pytest.raises(DeviceError, match=r"NVRTC cannot compile for compute capability 3.0"):
        compiled(kernel_source(), "3.0", {"THREADS": 512})
