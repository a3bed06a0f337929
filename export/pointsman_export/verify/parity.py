"""Parity of written graphs with the torch modules, block by block, so that no step holds the model.

Each block of a graph is cut out of the written file, fed what the reference feeds its own block, and compared on
everything that it hands on. Errors are relative to the largest magnitude of the value that they are in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pointsman.bundle import Parity, Role
from pointsman.errors import CheckpointError, ParityError
from pointsman_export.checkpoint import TensorReader
from pointsman_export.graphs.conversion import WIDER
from pointsman_export.network import Build
from pointsman_export.verify.pieces import Array, Pieces
from pointsman_export.verify.reference import Reference
from pointsman_export.verify.sample import Experts, Sample
from pointsman_export.verify.steps import Step, steps

TOLERANCES = {"float32": 1e-4, "bfloat16": 1e-4, "float16": 5e-3}
LEAST_AGREEMENT = 0.98


@dataclass(frozen=True, slots=True)
class Written:
    """The graphs of one variant; their external data lies beside them.

    Attributes:
        build: of the variant.
        encoder: its file.
        decoder: likewise.
        step: likewise, of the decoder's step for one position, where there is one.
    """

    build: Build
    encoder: Path
    decoder: Path
    step: Path | None = None


@dataclass
class Measured:
    """The worst seen so far.

    Attributes:
        error: relative to the value's largest magnitude.
        worst: name of the value.
        agreeing: tokens whose expert was the reference's.
        routed: tokens that were routed at all.
    """

    error: float = 0.0
    worst: str = ""
    agreeing: int = 0
    routed: int = 0

    def compare(self, name: str, got: Array, wanted: Tensor) -> None:
        """Take a value into account."""
        expected = wanted.numpy()
        if not np.isfinite(expected).all():
            raise CheckpointError(
                f"{name} is past float32's range already when the checkpoint itself is run; "
                "use one with smaller weights"
            )
        difference = np.abs(got.astype(np.float32) - expected)
        error = float(difference.max(initial=0.0) / max(float(np.abs(expected).max()), 1e-30))
        if not np.isfinite(got.astype(np.float32)).all():
            error = float("inf")
        if error >= self.error:
            self.error, self.worst = error, name

    def route(self, got: Array, wanted: Tensor) -> None:
        """Count agreement."""
        self.agreeing += int(np.count_nonzero(got == wanted.numpy()))
        self.routed += got.size


class Comparison:
    """One variant's graphs beside the reference.

    A step for one position is given the first of the positions, which does not depend on the others.

    Args:
        written: the graphs.
    """

    def __init__(self, written: Written) -> None:
        self.build, self.measured = written.build, Measured()
        dtype = self.build.precision.name
        self.pieces: dict[Role, Pieces] = {
            "encoder": Pieces(written.encoder, dtype),
            "decoder": Pieces(written.decoder, dtype),
        }
        self.step = None if written.step is None else Pieces(written.step, dtype)

    def take(self, step: Step) -> None:
        """Run a step. What experts do is compared apart from their choice, so that a near tie spoils no value."""
        self._take(step, self.pieces[step.role])
        if step.role == "decoder" and self.step is not None:
            self._take(step.first_position, self.step)

    def _take(self, step: Step, pieces: Pieces) -> None:
        if step.layer is not None:
            ((name, wanted),) = step.wanted.items()
            self.measured.compare(name, pieces.run_experts(step.layer, name, step.feeds), wanted)
            return
        choices = [step.routed[0]] if step.routed else []
        got = pieces.run([*step.wanted, *choices], step.feeds)
        if step.routed:
            self.measured.route(got[-1], step.routed[1])
        for (name, wanted), value in zip(step.wanted.items(), got, strict=False):
            self.measured.compare(name, value, wanted)

    def parity(self, experts: str) -> Parity:
        """What was measured.

        Args:
            experts: which were compared, in words.

        Raises:
            ParityError: naming the worst value, its error and the tolerance.
        """
        measured, dtype, form = self.measured, self.build.precision.name, self.build.form
        agreement = measured.agreeing / measured.routed if measured.routed else 1.0
        if measured.error == np.inf and dtype in WIDER:
            raise ParityError(
                f"{measured.worst} is past {dtype}'s range in the exported {form} graphs; "
                f"nothing was written, export in {WIDER[dtype]} (`dtype`)"
            )
        if not measured.error <= TOLERANCES[dtype] or agreement < LEAST_AGREEMENT:
            raise ParityError(
                f"the exported {form} {dtype} graphs do not compute what the checkpoint does: "
                f"{measured.worst} is off by {measured.error:.2g} (tolerance {TOLERANCES[dtype]:g}), experts agree on "
                f"{agreement:.1%} of tokens; nothing was written, please report this"
            )
        return Parity(
            reference=f"torch {torch.__version__} modules in float32, block by block{experts}",
            max_error=measured.error,
            worst=measured.worst,
            tolerance=TOLERANCES[dtype],
            expert_agreement=agreement,
        )


def verify(
    variants: Sequence[Written],
    checkpoint: TensorReader,
    *,
    progress: Callable[[str], object],
    experts: Experts = "sample",
) -> list[Parity]:
    """Compare the graphs of variants with the reference, which computes every block once for all of them.

    Args:
        variants: forms of one architecture at one precision and capacity.
        checkpoint: what they were written from, read under canonical names.
        progress: called with the name of each block, and of what follows the blocks, before it is compared.
        experts: whether all of a layer are compared, or a few that its path seeds.

    Returns:
        what was measured of each.

    Raises:
        CheckpointError: the checkpoint's own values overflow.
        ParityError: naming the worst value, its error and the tolerance.
    """
    build = variants[0].build
    comparisons = [Comparison(written) for written in variants]
    sample = Sample.draw(build, experts)
    with torch.inference_mode():
        for name, parts in groupby(steps(Reference(build, checkpoint, sample.assignments), sample), attrgetter("name")):
            progress(name)
            for step, comparison in product(parts, comparisons):
                comparison.take(step)
    return [comparison.parity(sample.described) for comparison in comparisons]
