"""One ONNX graph to one plan."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman.bundle import PlanOptions, Profile, TensorSpec
from pointsman.errors import EngineError
from pointsman_export.plans.callbacks import deferred_interrupts, error_recorder, progress_monitor
from pointsman_export.plans.library import Library
from pointsman_export.plans.refusals import building_refusal, parsing_refusal, sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What to build.

    Attributes:
        graph: the ONNX file; its weights lie beside it.
        inputs: of the graph.
        profiles: ranges of shapes, in the order that the plan shall have them.
        options: what the plan shall allow.
        compute_capability: of the GPU.
        timing_cache: a file that keeps how fast kernels were, from one build to the next; None keeps nothing.
    """

    graph: Path
    inputs: Sequence[TensorSpec]
    profiles: Sequence[Profile]
    options: PlanOptions
    compute_capability: str
    timing_cache: Path | None


def build_plan(library: Library, request: PlanRequest) -> memoryview:
    """Build a plan.

    Networks are strongly typed: every tensor has the type that the graph gives it. TF32 stays off, so that float32 is
    float32.

    Args:
        library: that builds.
        request: what.

    Returns:
        the plan's bytes.

    Raises:
        EngineError: the library refuses the graph; names the node where the library does.
        KeyboardInterrupt: interrupted; the build was cancelled.
    """
    from polygraphy.backend.trt import create_network, engine_bytes_from_network
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    errors: list[str] = []
    # Polygraphy prints to stdout, and what matters of it comes back as errors.
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1), deferred_interrupts() as stop:
        builder, network = create_network(strongly_typed=True)
        builder.error_recorder = error_recorder(library.trt, errors)
        parser = _parse(library, builder, network, request)
        try:
            plan = engine_bytes_from_network(
                (builder, network),
                config=configuration(library, request, progress_monitor(library.trt, stop)),
                save_timing_cache=request.timing_cache and str(request.timing_cache),
            )
        except PolygraphyException as error:
            layers = (network.get_layer(number).name for number in range(network.num_layers))
            refusal = building_refusal(errors or [str(error)], layers)
            raise EngineError(sentence(library, request.graph.name, refusal)) from error
        del parser  # it owns the weights, which the builder has read until here
    return memoryview(plan)


def _parse(library: Library, builder: Any, network: Any, request: PlanRequest) -> Any:  # noqa: ANN401
    """Fill a network from an ONNX file, and return the parser."""
    parser = library.trt.OnnxParser(network, builder.logger)
    if not parser.parse(_with_fixed_axes(request), str(request.graph)):
        raise EngineError(sentence(library, request.graph.name, parsing_refusal(parser)))
    return parser


def _with_fixed_axes(request: PlanRequest) -> bytes:
    """The graph's file, with a number for each axis that has one size in all profiles.

    The libraries update a cache in place only if its capacity is a number.
    """
    import onnx_ir as ir

    first, *others = request.profiles
    fixed = {
        name: axis.max
        for name, axis in first.axes.items()
        if axis.min == axis.max and all(profile.axes[name] == axis for profile in others)
    }
    model = ir.load(request.graph)
    for value in (*model.graph.inputs, *model.graph.outputs):
        axes = value.shape or ()
        value.shape = ir.Shape([fixed.get(str(axis), axis) for axis in axes])
    serialized: bytes = ir.to_proto(model).SerializeToString()
    return serialized


def configuration(library: Library, request: PlanRequest, monitor: Any) -> Callable[[Any, Any], Any]:  # noqa: ANN401
    """A function of builder and network that makes the builder's configuration."""
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
    from polygraphy.backend.trt import CreateConfig

    options, cache = request.options, request.timing_cache
    common = {
        "profiles": [_shapes(profile, request.inputs) for profile in request.profiles],
        "refittable": options.refittable,
        "version_compatible": options.version_compatible,
        "weight_streaming": options.weight_streaming,
        "progress_monitor": monitor,
        "load_timing_cache": str(cache) if cache is not None and cache.exists() else None,
    }
    if library.flavour == "tensorrt-rtx":
        major, minor = map(int, request.compute_capability.split("."))
        create = CreateConfigRTX(compute_capabilities=[(major, minor)], **common)
    else:
        create = CreateConfig(**common)

    def configure(builder: Any, network: Any) -> Any:  # noqa: ANN401
        config = create(builder, network)
        config.clear_flag(library.trt.BuilderFlag.TF32)
        return config

    return configure


def _shapes(profile: Profile, inputs: Sequence[TensorSpec]) -> Any:  # noqa: ANN401
    """A profile in Polygraphy's terms."""
    from polygraphy.backend.trt import Profile as Shapes

    shapes = Shapes()
    for spec in inputs:
        least, best, greatest = profile.shapes(spec)
        shapes.add(spec.name, min=least, opt=best, max=greatest)
    return shapes
