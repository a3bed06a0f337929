"""What a variant's products take by themselves: how fast it would be if all else cost nothing.

The products are taken out of a variant's graphs as they are, operator, attributes and weights, into a graph that holds
nothing else; so is the encoder's attention, where it is one operator. A run has the rows of its case, and of each
sparse layer as many experts as the case reaches, which share them. Engine and kernels are the variant's, so that no
graph of these products is faster. Beside every promise of speed is printed how many requests of products alone fit into
the other's time, by the results of `decode.py`.
"""

import argparse
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import onnx_ir as ir

import machine
import measurements
from cases import CASES, QUICK_CASES, Case
from measurements import BUILD, RESULTS
from pointsman.backends.onnxruntime.session import session
from pointsman.backends.onnxruntime.weights.huge_pages import THREAD, huge_pages
from pointsman.bundle import Role, read_manifest
from prepared import prepared_bundle, prepared_checkpoint, prepared_variant
from promises import LEAST_SPEEDUPS

VARIANTS: Final = ("fused-float32", "fused-int8", "fused-int4")
_KINDS: Final = frozenset({"MatMul", "Gemm", "MatMulIntegerToFloat", "MatMulNBits"})
_ATTENTION: Final = "Attention"
_EXPERT: Final = re.compile(r"\.expert_(\d+)\.")
_OPSETS: Final = {"": 23, "com.microsoft": 1}


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a graph.

    Attributes:
        role: of the graph.
        rows: that its dense products have.
        experts: of each sparse layer that get some of them.
        inputs: that the rows are of, each of as many.
    """

    role: Role
    rows: int
    experts: int
    inputs: int = 1


def products_alone(model: ir.Model, run: Run, d_kv: int) -> tuple[ir.Model, int]:
    """A model that multiplies with a graph's weights, attends as its encoder does, and does nothing else.

    Args:
        model: its products have weights in external data.
        run: how many rows and experts.
        d_kv: width of a head.

    Returns:
        The model, whose inputs are named by dtype and shape, and the bytes of its weights.
    """
    inputs, initializers = dict[str, ir.Value](), dict[str, ir.Value]()
    nodes, size = list[ir.Node](), 0
    for node in _products(model.graph):
        weight = node.inputs[1]
        assert weight is not None
        assert weight.const_value is not None
        expert = _EXPERT.search(str(weight.name))
        if expert is not None and int(expert[1]) >= run.experts:
            continue
        rows = run.rows if expert is None else ceil(run.rows / run.experts)
        given = _given(node, weight, rows)
        constants = [initializers.setdefault(str(value.name), _constant(value)) for value in node.inputs[1:] if value]
        nodes.append(
            ir.node(
                node.op_type,
                [inputs.setdefault(str(given.name), given), *constants],
                dict(node.attributes),
                domain=node.domain,
            )
        )
        nodes[-1].outputs[0].name, nodes[-1].outputs[0].type = f"product.{len(nodes)}", ir.TensorType(ir.DataType.FLOAT)
        size += weight.const_value.nbytes
    nodes += [_attention(node, run, d_kv, inputs) for node in model.graph if node.op_type == _ATTENTION]
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph(
        list(inputs.values()),
        outputs,
        nodes=nodes,
        initializers=list(initializers.values()),
        opset_imports=_OPSETS,
        name="products",
    )
    return ir.Model(graph, ir_version=model.ir_version), size


def _attention(node: ir.Node, run: Run, d_kv: int, inputs: dict[str, ir.Value]) -> ir.Node:
    """The node over inputs that all layers share."""
    heads, tokens = node.attributes["q_num_heads"].as_int(), run.rows // run.inputs
    shapes = [(run.inputs, tokens, heads * d_kv)] * 3 + [(run.inputs, heads, tokens, tokens)]
    given = [_input(ir.DataType.FLOAT, shape) for shape in shapes]
    values = [inputs.setdefault(str(value.name), value) for value in given]
    made = ir.node(_ATTENTION, values, dict(node.attributes))
    made.outputs[0].name, made.outputs[0].type = f"of.{node.outputs[0].name}", ir.TensorType(ir.DataType.FLOAT)
    return made


def _products(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in ir.traversal.RecursiveGraphIterator(graph):
        weight = node.inputs[1] if node.op_type in _KINDS else None
        if weight is not None and isinstance(weight.const_value, ir.ExternalTensor):
            yield node


def _given(node: ir.Node, weight: ir.Value, rows: int) -> ir.Value:
    """The input of a product: ones are multiplied as fast as anything else."""
    assert weight.const_value is not None
    shape = weight.const_value.shape.numpy()
    transposed = node.op_type == "Gemm" and node.attributes["transB"].as_int() == 1
    width = node.attributes["K"].as_int() if node.op_type == "MatMulNBits" else shape[1 if transposed else 0]
    dtype = ir.DataType.UINT8 if node.op_type == "MatMulIntegerToFloat" else ir.DataType.FLOAT
    return _input(dtype, (rows, width))


def _input(dtype: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
    name = f"{dtype.name}:{'x'.join(map(str, shape))}"
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def _constant(value: ir.Value) -> ir.Value:
    return ir.Value(name=value.name, type=value.type, shape=value.shape, const_value=value.const_value)


def _ready(bundle: Path, variant: str, run: Run, threads: int) -> tuple[Callable[[], float], int]:
    """What runs the products once and gives the seconds, and the bytes of their weights."""
    manifest = read_manifest(bundle)
    path = bundle / manifest.variants[variant].graph(run.role).file
    model, size = products_alone(ir.load(path), run, manifest.architecture.d_kv)
    with huge_pages(size) if variant != "fused-float32" else nullcontext():
        graph = ir.to_proto(model).SerializeToString()
        loaded = session(path, "cpu", threads, model=graph, exact_integers=variant != "fused-float32")
    binding = loaded.io_binding()
    for given in loaded.get_inputs():
        binding.bind_cpu_input(given.name, np.ones(given.shape, np.uint8 if "uint8" in given.type else np.float32))
    for made in loaded.get_outputs():
        binding.bind_output(made.name)

    def timed() -> float:
        began = time.perf_counter()
        loaded.run_with_iobinding(binding)
        return time.perf_counter() - began

    return timed, size


def runs_of(case: Case, routing: Mapping[str, float]) -> tuple[Run, Run]:
    """What a request runs: the encoder once, the decoder for every new token.

    Args:
        case: of the request.
        routing: how many experts of a layer it reaches, as `decode.py` counts them.
    """
    encoder = Run("encoder", case.batch * case.source, round(routing["encoder_experts_hit"]), case.batch)
    return encoder, Run("decoder", case.batch * case.beams, round(routing.get("decoder_experts_hit", 1)))


def measured(bundle: Path, variants: Sequence[str], runs: Sequence[Run], parsed: argparse.Namespace) -> dict[str, Any]:
    """Seconds by variant and run, medians over interleaved rounds, and the bytes of the weights."""
    found: dict[str, Any] = {variant: {} for variant in variants}
    for run in runs:  # one after the other: weights of all of them would not fit into memory
        ready = {variant: _ready(bundle, variant, run, parsed.threads) for variant in variants}
        for thread in threading.enumerate():
            if thread.name == THREAD:
                thread.join()
        samples: dict[str, list[float]] = {variant: [] for variant in variants}
        for _ in range(parsed.rounds):
            for variant, (timed, _) in ready.items():
                samples[variant] += [timed() for _ in range(parsed.repeats)][1:]
        for variant, (_, size) in ready.items():
            found[variant][_name(run)] = {"seconds": median(samples[variant]), "bytes": size}
    return found


def _name(run: Run) -> str:
    return f"{run.role} {run.rows} rows {run.experts} experts"


def bounds(found: Mapping[str, Any], cases: Sequence[Case], results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Beside each promise: what was measured, and what products alone would come to."""
    seconds = {name: each["cases"] for name, each in results["contestants"].items()}
    rows = []
    for variant, others, limits in LEAST_SPEEDUPS:
        for case in (case for case in cases if case.name in limits):
            theirs = min(seconds[other][case.name]["seconds"] for other in others)
            encoder, step = (
                found[variant][_name(run)]["seconds"] for run in runs_of(case, results["routing"][case.name])
            )
            alone = encoder + case.new_tokens * step
            whole = seconds[variant][case.name]["seconds"]
            rows.append(
                {
                    "variant": variant,
                    "beside": "CTranslate2" if "ctranslate2" in others[0] else "transformers",
                    "case": case.name,
                    "promised": limits[case.name],
                    "measured": theirs / whole,
                    "products_alone": theirs / alone,
                    "share_of_products": alone / whole,
                }
            )
    return rows


def print_report(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print two tables."""
    lines = [
        [f"{variant}, {run}", f"{each['seconds'] * 1e3:.2f}", f"{each['bytes'] / each['seconds'] / 1e9:.1f}"]
        for variant, by_run in found.items()
        for run, each in by_run.items()
    ]
    measurements.print_table(["products alone", "ms", "GB/s"], lines)
    print()
    columns = ("promised", "measured", "products_alone")
    lines = [
        [f"{row['variant']} beside {row['beside']}, {row['case']}", *(f"{row[column]:.2f}" for column in columns)]
        for row in rows
    ]
    measurements.print_table(["times as fast", "promised", "measured", "by products alone"], lines)


def main() -> int:
    parsed = _parsed()
    started = measurements.begin()
    decoded = parsed.decode or RESULTS / f"decode-{machine.file_name(started['machine'])}.json"
    if not decoded.exists():
        print(f"there is no {decoded.name}: run benchmarks/decode.py first", file=sys.stderr)
        return 1
    results = json.loads(decoded.read_text(encoding="utf-8"))
    checkpoint = prepared_checkpoint(parsed.keep, "tiny" if parsed.quick else "switch-base-8")
    bundle = prepared_bundle(parsed.keep, checkpoint, forms="both")
    for scheme in ("int8", "int4"):
        prepared_variant(bundle, scheme)
    promised = {case for _, _, limits in LEAST_SPEEDUPS for case in limits}
    cases = [case for case in (QUICK_CASES if parsed.quick else CASES) if case.name in promised]
    runs = dict.fromkeys(run for case in cases for run in runs_of(case, results["routing"][case.name]))
    found = measured(bundle, VARIANTS, list(runs), parsed)
    rows = bounds(found, cases, results)
    print_report(found, rows)
    body = {
        "settings": {"threads": parsed.threads, "rounds": parsed.rounds, "decode": results["date"]},
        "products": found,
        "bounds": rows,
    }
    name = f"products-{machine.file_name(started['machine'])}.json"
    measurements.write(parsed.output or (BUILD / "quick" if parsed.quick else RESULTS) / name, started, body)
    return 0


def _parsed() -> argparse.Namespace:
    parser = measurements.parser("Measure what a variant's products take by themselves.")
    parser.add_argument("--decode", type=Path, metavar="FILE", help="results of decode.py (default: this machine's)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=6, help="runs of each in a round; the first is not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=BUILD, metavar="FOLDER", help="where models are kept")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
