"""Tensors under Hugging Face's names, read out of T5X's arrays."""

from collections.abc import Iterator
from dataclasses import dataclass

from pointsman.errors import CheckpointError
from pointsman_export.checkpoint.stored import FloatArray, OpenFiles, Stored, TensorInfo
from pointsman_export.checkpoint.t5x.arrays import StoredArray
from pointsman_export.checkpoint.t5x.names import EXPERT, Place


@dataclass(frozen=True, slots=True)
class T5xTensor:
    """A tensor of a T5X checkpoint.

    Attributes:
        info: Name, shape and dtype.
        array: What holds it.
        expert: Its place along the array's first axis, where that stacks the experts.
        transposed: Whether the array has its two axes in the other order.
    """

    info: TensorInfo
    array: StoredArray
    expert: int | None = None
    transposed: bool = False

    def read(self, files: OpenFiles) -> FloatArray:
        """Read the tensor into memory of its own; where it is transposed, what is returned is not C-contiguous.

        Raises:
            CheckpointError: A file is gone or damaged.
        """
        if self.expert is None:
            values = self.array.read(files)
        else:
            (values,) = self.array.rows(self.expert, self.expert + 1, files)
        return values.T if self.transposed else values

    def shares_place_with(self, other: Stored) -> bool:  # noqa: ARG002 - T5X stores no tensor twice
        """Never: there is one name for each array."""
        return False

    def row_blocks(self) -> Iterator[Stored]:
        """The tensor whole: of a gzip stream no part can be read by itself."""
        yield self


def tensors_of(array: StoredArray, place: Place, where: str) -> Iterator[T5xTensor]:
    """The tensors that an array holds: one, or one for each expert.

    Args:
        array: The array.
        place: What it is.
        where: Its name in the checkpoint, for the message.

    Raises:
        CheckpointError: The array has another number of axes than it must have.
    """
    if len(array.shape) != place.axes:
        raise CheckpointError(
            f"{where} has the shape {list(array.shape)}, and should have {place.axes} axes; use a Switch model's"
        )
    shape = array.shape[place.stacked :]
    oriented = shape[::-1] if place.transposed else shape
    experts = range(array.shape[0]) if place.stacked else (None,)
    for expert in experts:
        name = place.name.replace(EXPERT, str(expert))
        yield T5xTensor(TensorInfo(name, oriented, array.dtype), array, expert, place.transposed)
