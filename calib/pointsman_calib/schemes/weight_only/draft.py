"""The draft of a weight-only variant: weights are rounded once, whatever is kept in float."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pointsman.bundle import Role, Scheme
from pointsman_calib.graphs.external_data import in_file_order, read_tensor
from pointsman_calib.graphs.widening import widen
from pointsman_calib.rounding import BlockFormat
from pointsman_calib.schemes.draft import Draft
from pointsman_calib.schemes.weight_only.formats import formats_of
from pointsman_calib.schemes.weight_only.graphs import (
    Contents,
    Formats,
    Rounded,
    Rounding,
    RoundingOfOne,
    quantizable,
    rewrite,
    write_weights,
)
from pointsman_calib.settle import Kept

_ROUNDED: Final = "rounded.bin"


class WeightOnlyDraft(Draft):
    """The files of the variant, which there are once its weights are rounded.

    Attributes:
        weights: of the float graphs, all that can be quantized.
        formats: of those that a scheme quantizes.
        contents: of the weights' file.
    """

    def __init__(self, source: Mapping[Role, Path], scheme: Scheme, place: Path) -> None:
        """Read the float graphs; their weights stay on disk.

        Args:
            source: the float graphs' files.
            scheme: what weights become.
            place: the folder to write in.
        """
        super().__init__(source, scheme, place)
        self.weights = quantizable(self.models())
        formats = ((name, formats_of(weight, scheme)) for name, weight in self.weights.items())
        self.formats = {name: each for name, each in formats if each != Formats()}
        self.contents = Contents({}, {}, "")
        self._rounding: Rounding | None = None

    @property
    def quantizable(self) -> Iterable[str]:
        """Names of the weights that the scheme quantizes."""
        return self.formats

    @property
    def order(self) -> list[str]:
        """Names of the quantized weights, in the order in which `round` asks for them."""
        return [name for name, _ in in_file_order(self.models().values()) if name in self.formats]

    def round(self, rounding: Rounding) -> None:
        """Round every weight, and write the variant that keeps nothing in float."""
        self._rounding = rounding
        self.write_weights(frozenset())
        self.write_graphs(Kept())

    def store(self, models: Iterable[ir.Model], left_out: frozenset[str], progress: Callable[[int], object]) -> str:
        """Write what was rounded, which is laid by before it is first left out in part; see `Draft.store`."""
        assert self._rounding is not None
        if left_out and not isinstance(self._rounding, _Stored):
            self._rounding = _Stored.moved(self.contents.rounded, self.weights_file, self.place / _ROUNDED)
        formats = {name: form for name, form in self.formats.items() if name not in left_out}
        self.contents = write_weights(
            models, formats, self.weights, self._rounding, self.weights_file, progress=progress
        )
        return self.contents.sha256

    def models(self) -> dict[Role, ir.Model]:
        """The float graphs, those in bfloat16 widened; their weights stay on disk."""
        found = super().models()
        for model in found.values():
            widen(model)
        return found

    def rewrite(self, model: ir.Model, kept: Kept) -> None:
        """Put products and look-ups of codes in; see `Draft.rewrite`."""
        rewrite(model, self.contents, kept.inputs)

    def close(self) -> None:
        """Remove what only later choices would have needed."""
        (self.place / _ROUNDED).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _StoredWeight:
    """A rounded weight as it lies in a file."""

    codes: NDArray[np.uint8] | NDArray[np.int8]
    scales: NDArray[np.float32]

    def packed_codes(self) -> NDArray[np.uint8]:
        assert self.codes.dtype == np.uint8
        return self.codes.view(np.uint8)

    def signed_codes(self) -> NDArray[np.int8]:
        assert self.codes.dtype == np.int8
        return self.codes.view(np.int8)


@dataclass(frozen=True, slots=True)
class _Stored:
    """Weights that were rounded before, read again one at a time."""

    rounded: Mapping[str, Rounded]

    @classmethod
    def moved(cls, rounded: Mapping[str, Rounded], path: Path, to: Path) -> "_Stored":
        path.rename(to)
        return cls({name: weight.at(to) for name, weight in rounded.items()})

    def __call__(self, name: str) -> RoundingOfOne:
        product = self.rounded[name].product
        assert product is not None

        def read(_weight: NDArray[np.float32], _form: BlockFormat) -> _StoredWeight:
            return _StoredWeight(read_tensor(product.codes), read_tensor(product.scales))

        return read
