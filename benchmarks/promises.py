"""What is promised of decode speed, and whether it is kept."""

from collections.abc import Iterator, Mapping, Sequence

from contest import FLOOR, REFERENCE, Measured
from measurements import Bar

FLOAT32, INT8, INT4 = "fused-float32", "fused-int8", "fused-int4"
PEER_FLOAT32, PEER_INT8 = "ctranslate2 float32", "ctranslate2 int8"
REFERENCES = (REFERENCE, "transformers bfloat16")
"""Integer variants are held to the faster of these."""

Limits = Mapping[str, float]
LEAST_SPEEDUPS: tuple[tuple[str, Sequence[str], Limits], ...] = (
    (INT8, [PEER_INT8], {"greedy": 1.3, "batch 8": 1.0, "4 beams": 1.3, "encoder 512": 1.0}),
    (INT8, REFERENCES, {"greedy": 4.5, "batch 8": 2.5, "4 beams": 4.0, "encoder 512": 1.5}),
    (INT4, [PEER_INT8], {"greedy": 1.7, "batch 8": 1.0, "4 beams": 1.6}),
    (INT4, REFERENCES, {"greedy": 6.0, "batch 8": 2.5, "4 beams": 5.0}),
    (FLOAT32, [PEER_FLOAT32], {"greedy": 1.2, "batch 8": 1.1, "4 beams": 1.3}),
    (FLOAT32, [REFERENCE], {"greedy": 2.2, "batch 8": 2.0, "4 beams": 2.4}),
)
LEAST_OF_MEMORY = {INT8: 0.8, INT4: 0.6}
MOST_OVER_FLOOR = {"greedy": 1.2}
MOST_LOAD_SECONDS = {INT8: 2.0}
MOST_SIZE = {INT8: 0.27, INT4: 0.16}  # on disk, as a part of float32's


def bars(measured: Mapping[str, Measured], step_memory_seconds: Mapping[str, float]) -> list[Bar]:
    """What is promised of the contestants and cases that were measured.

    Args:
        measured: by contestant.
        step_memory_seconds: of a contestant, in which a step's weights can be read from memory, at one row; of none
            where nobody has told which experts tokens reach.
    """
    return [*_speedups(measured), *_parts_of_memory(measured, step_memory_seconds), *_own(measured)]


def _speedups(measured: Mapping[str, Measured]) -> Iterator[Bar]:
    for name, others, limits in LEAST_SPEEDUPS:
        if not measured.keys() >= {name, *others}:
            continue
        for case in (case.name for case in measured[name].job.cases if case.name in limits):
            seconds, fastest = min((measured[other].seconds(case), other) for other in others)
            ratio = seconds / measured[name].seconds(case)
            yield Bar(f"{name}: times the speed of {fastest}, {case}", ratio, limits[case], at_least=True)


def _parts_of_memory(measured: Mapping[str, Measured], step_memory_seconds: Mapping[str, float]) -> Iterator[Bar]:
    for name, least in LEAST_OF_MEMORY.items():
        step = measured[name].step_seconds() if name in measured else None
        if step is not None and name in step_memory_seconds:
            part = step_memory_seconds[name] / step
            yield Bar(f"{name}: part of the memory roofline, a step of one row", part, least, at_least=True)


def _own(measured: Mapping[str, Measured]) -> Iterator[Bar]:
    """Beside the same without experts, beside float32, and loading."""
    if measured.keys() >= {FLOAT32, FLOOR}:
        for case in (case.name for case in measured[FLOAT32].job.cases if case.name in MOST_OVER_FLOOR):
            ratio = measured[FLOAT32].seconds(case) / measured[FLOOR].seconds(case)
            yield Bar(f"{FLOAT32}: times the time of the {FLOOR}, {case}", ratio, MOST_OVER_FLOOR[case], at_least=False)
    for name in (name for name in MOST_LOAD_SECONDS if name in measured):
        yield Bar(f"{name}: seconds to load", measured[name].load_seconds, MOST_LOAD_SECONDS[name], at_least=False)
    for name in (name for name in MOST_SIZE if measured.keys() >= {name, FLOAT32}):
        size = measured[name].bytes / measured[FLOAT32].bytes
        yield Bar(f"{name}: size beside {FLOAT32}", size, MOST_SIZE[name], at_least=False)
