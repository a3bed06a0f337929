"""A variant in the making: weights are rounded once, and files are written for any choice of what is spared."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tqdm import tqdm

from pointsman.bundle import Role, Scheme, names
from pointsman_calib.graphs.external_data import in_file_order, read_tensor
from pointsman_calib.rounding import BlockFormat
from pointsman_calib.schemes.weight_only.formats import block_format
from pointsman_calib.schemes.weight_only.graphs import Contents, Rounded, Rounding, quantizable, rewrite, write_weights
from pointsman_calib.settle import Spared

_ROUNDED: Final = "rounded.bin"


class Draft:
    """The files of a weight-only variant.

    Attributes:
        weights: of the float graphs, all that can be quantized.
        formats: of those that a scheme quantizes.
        graphs: the files that `write` makes.
    """

    def __init__(self, source: Mapping[Role, Path], scheme: Scheme, place: Path) -> None:
        """Read the float graphs; their weights stay on disk.

        Args:
            source: the float graphs' files.
            scheme: what weights become.
            place: the folder to write in.
        """
        self.source, self.scheme, self.place = source, scheme, place
        self.graphs: dict[Role, Path] = {role: place / path.name for role, path in source.items()}
        self.weights = quantizable(self._models())
        formats = ((name, block_format(weight, scheme)) for name, weight in self.weights.items())
        self.formats: dict[str, BlockFormat] = {name: form for name, form in formats if form is not None}
        self.contents = Contents({}, {}, "")
        self._left_out: frozenset[str] = frozenset()
        self._stored: _Stored | None = None

    @property
    def quantizable(self) -> Iterable[str]:
        """Names of the weights that the scheme quantizes."""
        return self.formats

    @property
    def order(self) -> list[str]:
        """Names of the quantized weights, in the order in which `round` asks for them."""
        return [name for name, _ in in_file_order(self._models().values()) if name in self.formats]

    def round(self, rounding: Rounding) -> None:
        """Round every weight, and write the variant that spares nothing."""
        self._write_weights(rounding, frozenset())
        self._write_graphs(frozenset())

    def write(self, spared: Spared) -> None:
        """Write the variant anew, from what was rounded."""
        if spared.weights != self._left_out:
            if self._stored is None:
                self._stored = _Stored.moved(self.contents.rounded, self.place / names.WEIGHTS, self.place / _ROUNDED)
            self._write_weights(self._stored, spared.weights)
        self._write_graphs(spared.inputs)

    def close(self) -> None:
        """Remove what only later choices would have needed."""
        (self.place / _ROUNDED).unlink(missing_ok=True)

    def _models(self) -> dict[Role, ir.Model]:
        return {role: ir.load(path) for role, path in self.source.items()}

    def _write_weights(self, rounding: Rounding, left_out: frozenset[str]) -> None:
        models = list(self._models().values())
        formats = {name: form for name, form in self.formats.items() if name not in left_out}
        total = sum(tensor.nbytes for _, tensor in in_file_order(models))
        with tqdm(total=total, desc=self.scheme, unit="B", unit_scale=True, disable=None) as bar:
            self.contents = write_weights(
                models, formats, self.weights, rounding, self.place / names.WEIGHTS, progress=bar.update
            )
        self._left_out = left_out

    def _write_graphs(self, fine_inputs: frozenset[str]) -> None:
        for role, model in self._models().items():
            rewrite(model, self.contents, fine_inputs)
            ir.save(model, self.graphs[role])


@dataclass(frozen=True, slots=True)
class _StoredWeight:
    """A rounded weight as it lies in a file."""

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]

    def packed_codes(self) -> NDArray[np.uint8]:
        return self.codes


@dataclass(frozen=True, slots=True)
class _Stored:
    """Weights that were rounded before, read again one at a time."""

    rounded: Mapping[str, Rounded] = field(default_factory=dict)

    @classmethod
    def moved(cls, rounded: Mapping[str, Rounded], path: Path, to: Path) -> "_Stored":
        path.rename(to)
        return cls({name: weight.at(to) for name, weight in rounded.items()})

    def __call__(self, name: str, _weight: NDArray[np.float32], _form: BlockFormat) -> _StoredWeight:
        weight = self.rounded[name]
        return _StoredWeight(read_tensor(weight.codes), read_tensor(weight.scales))
