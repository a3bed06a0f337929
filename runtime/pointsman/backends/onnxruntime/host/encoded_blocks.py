"""What was encoded for the inputs of many requests in host memory, in blocks: see `models/source_blocks.py`."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pointsman.backends.onnxruntime.host.encoder_runs import length
from pointsman.backends.onnxruntime.host.memory import NONE, Arrays, Memory
from pointsman.backends.onnxruntime.host.slots import Patience, gaps_closed, room
from pointsman.bundle import SOURCE_BLOCK, TensorSpec, attending, names, source_blocks

_PARTS: Final = 16
"""Where inputs have several blocks, places are padded to a multiple of so many. The engine sums so many terms side by
side, four of a product: so a query's result is the same to the last bit beside inputs of any length."""


class EncodedBlocks:
    """Masks, and cross-attention keys and values, in blocks.

    What is held is copied when there is no room for more; room grows by a share of what there is, so inputs that come
    one by one are not all copied each time.
    """

    def __init__(self, specs: Sequence[TensorSpec], heads: int, memory: Memory) -> None:
        """Have none.

        Args:
            specs: the encoder's outputs.
            heads: of attention.
            memory: where they are to lie.
        """
        self._specs, self._heads, self._memory, self._held = specs, heads, memory, NONE
        self._source_axes = {spec.name: spec.axes.index(names.SOURCE) for spec in specs}
        self.clear()

    def clear(self) -> None:
        """Give all memory back."""
        self._owners = np.zeros(0, np.int64)  # the input of each block
        self._numbers = np.zeros(0, np.int64)  # which of that input's it is
        self._count = 0
        self._patience = Patience()
        self._mask = np.zeros((0, SOURCE_BLOCK), np.int64)
        self._hold(NONE)

    def __len__(self) -> int:
        """How many inputs there are."""
        return self._count

    @property
    def bytes(self) -> int:
        """Of memory that is held."""
        return self._mask.nbytes + self._held.bytes

    def make_room(self, lengths: Sequence[int]) -> None:
        """Have slots for inputs of so many tokens beside those that there are."""
        needed = self._end + sum(map(source_blocks, lengths))
        if needed > len(self._mask):
            self._lay_out(room(len(self._mask), needed))

    def targets(self, first: int, inputs: int, source: int) -> Arrays:
        """Where the encoder is to write what it gives for some new inputs; `put` is to be called then.

        Args:
            first: the place of their first block among those that there is room for since `make_room`.
            inputs: how many.
            source: tokens of each, padding included.

        Returns:
            arrays by name, with the axes of their specs: their slots, where these have just that many tokens.
        """
        if source == SOURCE_BLOCK:
            slots = slice(self._end + first, self._end + first + inputs)
            return Arrays({name: array[slots] for name, array in self._held.by_name.items()}, NONE.memory)
        return self._memory.arrays(self._specs, {names.BATCH: inputs, names.SOURCE: source})

    def put(self, first: int, mask: NDArray[np.int64], encoded: Arrays) -> int:
        """Have new inputs in their slots; they count when they have `arrived`.

        Args:
            first: as of `targets`.
            mask: int64 [inputs, source].
            encoded: what `targets` gave, written; given back here.

        Returns:
            the place behind their last block.
        """
        for number, of_input in enumerate(mask):
            tokens, slot = length(of_input), self._end + first
            first += source_blocks(tokens)
            self._mask[slot : self._end + first] = 0
            self._mask[slot : self._end + first].reshape(-1)[:tokens] = of_input[:tokens]
            if len(of_input) != SOURCE_BLOCK:
                for name, values in encoded.by_name.items():
                    self._write(name, slot, values[number], tokens)
        self._memory.give_back(encoded)
        return first

    def arrived(self, lengths: Sequence[int]) -> None:
        """Count inputs of so many tokens among the others, all that `put` was called for."""
        counts = [*map(source_blocks, lengths)]
        self._owners = np.concatenate([self._owners, self._count + np.repeat(np.arange(len(counts)), counts)])
        self._numbers = np.concatenate([self._numbers, *map(np.arange, counts)])
        self._count += len(counts)

    def keep(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give back the blocks of other inputs; the last blocks move there.

        Args:
            kept: int64, the inputs that are kept, rising.

        Returns:
            int64 [len(self) before], the new number of each.
        """
        renamed = np.zeros(self._count, np.int64)
        renamed[kept] = np.arange(len(kept))
        staying = np.flatnonzero(np.isin(self._owners, kept))
        moves, _ = gaps_closed(staying, len(self._owners))
        for target, source in moves:
            for array in (self._mask, *self._held.by_name.values()):
                _copy(array[target], array[source])
            self._owners[target], self._numbers[target] = self._owners[source], self._numbers[source]
        self._owners, self._numbers = renamed[self._owners[: len(staying)]], self._numbers[: len(staying)]
        self._count = len(kept)
        return renamed

    def tidy(self) -> bool:
        """Give back what has not been needed for many steps; to be called once a step.

        Returns:
            whether what is held lies elsewhere now.
        """
        if not self._patience.ends(is_large=4 * self._end <= len(self._mask)):
            return False
        self._lay_out(self._end)
        return True

    def read(self, row_inputs: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """What a step reads of it, by name.

        Args:
            row_inputs: int64 [rows], the input that each row attends to; all of them have rows.
        """
        held = {name: array[: self._end, :, None] for name, array in self._held.by_name.items()}
        return {names.ATTENTION_MASK: self._mask[: self._end], **held, **self._attended(row_inputs)}

    def _attended(self, row_inputs: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """Which queries attend to each block, and where each query's parts are."""
        of_inputs = attending(row_inputs, self._count, heads=self._heads)
        queries, places = of_inputs[names.ATTENDING_QUERIES][self._owners], of_inputs[names.ATTENDED_PLACES]
        _, heads, width = queries.shape
        parts = int(self._numbers.max()) + 1
        blocks = np.full((self._count, parts if parts == 1 else -(-parts // _PARTS) * _PARTS), -1)
        blocks[self._owners, self._numbers] = np.arange(len(self._owners))
        again = np.where(blocks < 0, blocks[:, :1] - len(self._owners), blocks)  # the first one's, from the end
        shifts = (again - np.arange(self._count)[:, None])[row_inputs] * (heads * width)  # [rows, parts]
        return with_parts(queries[..., None], places[..., None] + shifts[:, None, None])

    @property
    def _end(self) -> int:
        """The slot behind the last block."""
        return len(self._owners)

    def _write(self, name: str, slot: int, values: NDArray[Any], tokens: int) -> None:
        """Fill slots with an input's tokens, and the rest of the last with zeros: what is masked must be finite."""
        array, axis = self._held.by_name[name], self._source_axes[name] - 1  # of an input's values
        whole, rest = divmod(tokens, SOURCE_BLOCK)
        if whole:
            apart = values[_behind(axis, slice(whole * SOURCE_BLOCK))]
            apart = apart.reshape(*apart.shape[:axis], whole, SOURCE_BLOCK, *apart.shape[axis + 1 :])
            _copy(array[slot : slot + whole], np.moveaxis(apart, axis, 0))
        if rest:
            last = array[slot + whole]
            _copy(last[_behind(axis, slice(rest))], values[_behind(axis, slice(whole * SOURCE_BLOCK, tokens))])
            last[_behind(axis, slice(rest, None))] = 0

    def _lay_out(self, slots: int) -> None:
        """Have so many slots."""
        arrays = self._memory.arrays(self._specs, {names.BATCH: slots, names.SOURCE: SOURCE_BLOCK})
        mask = np.zeros((slots, SOURCE_BLOCK), np.int64)
        for name, array in self._held.by_name.items():
            _copy(arrays.by_name[name][: self._end], array[: self._end])
        mask[: self._end] = self._mask[: self._end]
        self._hold(arrays)
        self._mask = mask

    def _hold(self, arrays: Arrays) -> None:
        before, self._held = self._held, arrays
        self._memory.give_back(before)


def with_parts(queries: NDArray[np.int64], places: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """What a step in blocks is told of who attends to what.

    Args:
        queries: int64 [blocks, heads, alone, together].
        places: int64 [rows, positions, heads, parts].
    """
    return {names.ATTENDING_QUERIES: queries, names.ATTENDED_PLACES: places[..., None, :]}


def _copy(target: NDArray[Any], values: NDArray[Any]) -> None:
    target[...] = values


def _behind(axis: int, part: slice) -> tuple[slice, ...]:
    return (*(slice(None) for _ in range(axis)), part)
