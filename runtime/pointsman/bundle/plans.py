"""TensorRT plans: one graph of one portable variant, compiled for one kind of GPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pointsman.bundle.files import FileRecord
from pointsman.bundle.interface import Role, TensorSpec

Flavour = Literal["tensorrt", "tensorrt-rtx"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisRange:
    """Sizes of a dynamic axis: the smallest and the largest that a profile admits, and the one it is tuned for."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A range of shapes that a plan is built for.

    Attributes:
        name: what it is tuned for: `one-row`, or `full` for as many rows as fit.
        axes: range of each dynamic axis of the graph's inputs. Every input's least, best and greatest shape follows
            from its axes; a decoder plan takes one position a step.
    """

    name: Literal["one-row", "full"]
    axes: dict[str, AxisRange]

    def admits(self, sizes: Mapping[str, int]) -> bool:
        """Whether axes of these sizes are within the ranges; axes that the graph does not have are passed over."""
        return all(axis.min <= sizes[name] <= axis.max for name, axis in self.axes.items() if name in sizes)

    def shapes(self, spec: TensorSpec) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The least, the best and the greatest shape of an input."""
        ranges = [
            self.axes[axis] if isinstance(axis, str) else AxisRange(min=axis, opt=axis, max=axis) for axis in spec.axes
        ]
        least, best, greatest = zip(*((axis.min, axis.opt, axis.max) for axis in ranges), strict=True)
        return least, best, greatest


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What a plan was built to allow.

    Attributes:
        weight_streaming: whether weights may stay in host memory, within a budget set before an execution context is
            made.
        refittable: whether another checkpoint's weights may be put into it.
        version_compatible: whether later versions of the flavour, and its lean runtime, may load it.
    """

    weight_streaming: bool
    refittable: bool
    version_compatible: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """A TensorRT plan: one graph of one portable variant, compiled for one kind of GPU.

    Attributes:
        flavour: the library that built it and that runs it.
        version: of that library, as it reports it: a plan runs on the same version, unless it is version-compatible.
        compute_capability: of the GPUs that it runs on, such as "8.9".
        variant: name of the variant.
        role: which of its graphs.
        built_from: the graph's file, first, and the variant's weights, as they were; a variant that has been written
            anew has other records.
        profiles: in the plan's order, narrowest first: a request takes the first that admits it.
        options: what it allows.
        file: the plan.
        build_seconds: wall-clock time of the build.
    """

    flavour: Flavour
    version: str
    compute_capability: str
    variant: str
    role: Role
    built_from: tuple[FileRecord, ...]
    profiles: tuple[Profile, ...]
    options: PlanOptions
    file: FileRecord
    build_seconds: float

    @property
    def key(self) -> tuple[Flavour, str, str, Role]:
        """What a bundle has one plan of."""
        return self.flavour, self.compute_capability, self.variant, self.role
