"""The table of ranges: what one calibration pass learned, as frozen dataclasses and a JSON file that outlives the pass.

Quantizing again with another method needs the table only. It names the text and the variant that it was measured on, so
that it cannot be used for another by mistake.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from pointsman.bundle import Calibration, Variant
from pointsman.bundle.records import from_json, to_json
from pointsman.errors import BundleError, OutputError
from pointsman_calib.ranges import DEFAULT_PERCENTILE, Method, RangeObserver

SCHEMA: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Amax:
    """The largest magnitude to keep, by each method; a symmetric INT8 scale is this over 127."""

    minmax: float
    percentile: float
    entropy: float
    mse: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRange:
    """What was seen of one tensor.

    Attributes:
        count: values seen; 0 for an expert's tensor that no token reached.
        zeros: how many of them were exactly zero.
        min: the smallest; None if there was none.
        max: the largest; None if there was none.
        amax: where to clip; None if there was no value.
    """

    count: int
    zeros: int
    min: float | None
    max: float | None
    amax: Amax | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What the ranges were measured on, and by what.

    Attributes:
        calibration: the documents, and how they were corrupted.
        sequences: span-corrupted examples that were run.
        source_tokens: of the encoder, without padding.
        target_tokens: of the decoder, without padding.
        variant: name of the bundle's variant that was run.
        variant_sha256: `variant_digest` of it.
        percentile: percent of nonzero magnitudes that `Amax.percentile` keeps.
        versions: of the programs, by name.
    """

    calibration: Calibration
    sequences: int
    source_tokens: int
    target_tokens: int
    variant: str
    variant_sha256: str
    percentile: float
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeTable:
    """The whole table.

    Attributes:
        schema: number of this file's layout.
        provenance: what was measured.
        tensors: ranges by graph and tensor, such as `decoder:/Reshape_1:0`; one expert's part has its number after
            it, such as `encoder:/encoder/block.1/layer.1/mlp/Relu:0[3]`.
        coverage: by sparse layer, the tokens that each expert was given.
    """

    schema: int
    provenance: Provenance
    tensors: dict[str, TensorRange]
    coverage: dict[str, tuple[int, ...]]

    def amax(self, tensor: str, method: Method) -> float:
        """Where to clip a tensor.

        Raises:
            BundleError: the table has no such tensor, or no value of it was seen.
        """
        found = self.tensors.get(tensor)
        if found is None:
            raise BundleError(f"the range table has no tensor {tensor}; calibrate this bundle again")
        if found.amax is None:
            raise BundleError(f"no value of {tensor} was seen: calibrate with more text, or leave it in float")
        return float(getattr(found.amax, method))

    def require_variant(self, name: str, variant: Variant) -> None:
        """Check that the table was measured on this variant.

        Raises:
            BundleError: it was measured on another, or the variant was changed since.
        """
        if self.provenance.variant_sha256 != variant_digest(variant):
            raise BundleError(
                f"the range table was measured on another {self.provenance.variant} than this bundle's {name}; "
                "calibrate this bundle again"
            )


def tensor_range(observer: RangeObserver, percentile: float = DEFAULT_PERCENTILE) -> TensorRange:
    """The row of one observed tensor.

    Raises:
        OptionsError: `percentile` is not in (0, 100].
    """
    if observer.count == 0:
        return TensorRange(count=0, zeros=0, min=None, max=None, amax=None)
    amax = Amax(
        minmax=observer.amax("minmax"),
        percentile=observer.amax("percentile", percentile),
        entropy=observer.amax("entropy"),
        mse=observer.amax("mse"),
    )
    return TensorRange(count=observer.count, zeros=observer.zeros, min=observer.least, max=observer.greatest, amax=amax)


def variant_digest(variant: Variant) -> str:
    """Hex sha256 over the names and hashes of a variant's files, whatever their order."""
    lines = sorted(f"{file.path} {file.sha256}\n" for file in variant.files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_range_table(table: RangeTable, path: Path) -> None:
    """Write the table as JSON, whole or not at all; a file that is there is replaced.

    Raises:
        OutputError: it cannot be written.
    """
    text = json.dumps(to_json(table), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"cannot write the range table {path}: {error.strerror or error}") from error


def read_range_table(path: Path) -> RangeTable:
    """Read a table.

    Raises:
        BundleError: there is none, it is not JSON, of a newer schema, has unknown, missing or mistyped keys, or numbers
            that cannot be (all are named).
    """
    document = _parsed(path)
    schema = document.get("schema") if isinstance(document, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise BundleError(
            f"{path} has schema {schema} and this pointsman reads up to {SCHEMA}; upgrade pointsman or calibrate again"
        )
    table, problems = from_json(RangeTable, document)
    if table is not None:
        problems = [*_impossible_ranges(table), *_impossible_coverage(table)]
    if table is None or problems:
        raise BundleError(
            f"{path} is not a range table of schema {SCHEMA}: {'; '.join(problems)}; calibrate the bundle again"
        )
    return table


def _parsed(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise BundleError(
            f"cannot read the range table {path} ({error.strerror or error}); make one with `pointsman-calib`"
        ) from error
    except ValueError as error:
        raise BundleError(f"{path} is not valid JSON ({error}); calibrate the bundle again") from error


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _impossible_ranges(table: RangeTable) -> Iterator[str]:
    for name, found in table.tensors.items():
        if not 0 <= found.zeros <= found.count:
            yield f"tensors.{name}.zeros must be from 0 to count"
        extremes = (found.min, found.max, found.amax)
        if any((extreme is None) != (found.count == 0) for extreme in extremes):
            yield f"tensors.{name} must have min, max and amax if and only if count is above 0"
        elif found.amax is not None and any(
            not (math.isfinite(clip) and clip >= 0) for clip in to_json(found.amax).values()
        ):
            yield f"tensors.{name}.amax must be finite and not negative"


def _impossible_coverage(table: RangeTable) -> Iterator[str]:
    for layer, tokens in table.coverage.items():
        if any(given < 0 for given in tokens):
            yield f"coverage.{layer} must not be negative"
