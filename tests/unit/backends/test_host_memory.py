"""Memory of arrays that come and go: what is given back is taken again, and no more of it is kept than may be."""

import pytest

from pointsman.backends.onnxruntime.host.memory import NONE, Memory, most_spare
from pointsman.bundle import TensorSpec

MEGABYTE = 1 << 20
SPECS = [
    TensorSpec(name="keys", dtype="float32", axes=("rows", 256)),
    TensorSpec(name="mask", dtype="int64", axes=("rows", 3)),
]
ROWS = 8 * MEGABYTE // (256 * 4 + 3 * 8)  # 8 MB


def arrays(memory: Memory, rows: int = ROWS, *, zeroed: bool = False):
    return memory.arrays(SPECS, {"rows": rows}, zeroed=zeroed)


def test_arrays_have_their_specs_shapes_and_begin_at_cache_lines():
    found = arrays(Memory(128 * MEGABYTE), 5)
    assert {name: (array.shape, array.dtype.name) for name, array in found.by_name.items()} == {
        "keys": ((5, 256), "float32"),
        "mask": ((5, 3), "int64"),
    }
    assert all(array.ctypes.data % 64 == 0 for array in found.by_name.values())
    assert found.bytes == len(found.memory) >= 5 * (256 * 4 + 3 * 8)


@pytest.mark.parametrize("rows", [7, ROWS])
def test_arrays_do_not_overlap(rows):
    first, second = (arrays(memory := Memory(128 * MEGABYTE), rows), arrays(memory, rows))
    for number, array in enumerate([*first.by_name.values(), *second.by_name.values()]):
        array[...] = number
    for number, array in enumerate([*first.by_name.values(), *second.by_name.values()]):
        assert (array == number).all()


@pytest.mark.parametrize("rows", [ROWS, ROWS - 3, ROWS // 2 + 1])
def test_what_is_given_back_is_taken_again(rows):
    memory = Memory(128 * MEGABYTE)
    given = arrays(memory)
    memory.give_back(given)
    assert arrays(memory, rows).memory is given.memory
    assert arrays(memory, rows).memory is not given.memory


def test_zeros_are_zeros_where_something_was_written_before():
    memory = Memory(128 * MEGABYTE)
    given = arrays(memory)
    given.memory[...] = 0xFF
    memory.give_back(given)
    found = arrays(memory, zeroed=True)
    assert found.memory is given.memory
    assert not any(array.any() for array in found.by_name.values())


def test_much_is_not_taken_where_little_is_needed():
    memory = Memory(128 * MEGABYTE)
    given = arrays(memory)
    memory.give_back(given)
    assert arrays(memory, ROWS // 3).memory is not given.memory


def test_of_several_the_smallest_is_taken_that_suffices():
    memory = Memory(128 * MEGABYTE)
    given = [arrays(memory, rows) for rows in (3 * ROWS, ROWS, 2 * ROWS)]
    for each in given:
        memory.give_back(each)
    assert arrays(memory, ROWS + ROWS // 2).memory is given[2].memory


def test_no_more_is_kept_than_may_be():
    memory = Memory(most_spare=20 * MEGABYTE)
    given = [arrays(memory) for _ in range(4)]
    for each in given:
        memory.give_back(each)
    memory.give_back(arrays(memory, 3 * ROWS))  # more than all that may be kept
    assert [one is each.memory for one, each in zip(memory._spare, given[2:], strict=True)] == [True, True]


def test_memory_that_comes_back_in_the_middle_of_taking_some():
    """As a finalizer gives it back, in the thread that takes."""
    memory = Memory(128 * MEGABYTE)
    given, other = arrays(memory), arrays(memory)
    with memory._lock:
        memory.give_back(other)
    memory.give_back(given)
    taken = arrays(memory), arrays(memory)
    assert {id(each.memory) for each in taken} == {id(given.memory), id(other.memory)}


def test_little_is_kept_beside_what_a_model_takes():
    assert [most_spare(size) for size in (0, 37_000_000, 2_480_000_000)] == [0, 3_700_000, 128_000_000]


def test_small_ones_are_not_kept():
    memory = Memory(128 * MEGABYTE)
    memory.give_back(arrays(memory, 3))
    memory.give_back(NONE)
    assert memory._spare == []
