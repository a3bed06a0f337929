"""What takes the place of operators on CUDA gives what they give on the CPU; no operator is left that would not."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from pointsman.backends.onnxruntime.weights.saturation import make_exact
from pointsman.bundle import read_manifest
from pointsman_calib.graphs import pieces
from pointsman_calib.graphs.expression import DOMAIN, Expression
from pointsman_calib.graphs.on_cuda import suit_cuda
from pointsman_calib.graphs.runs import PiecewiseRun, graph_files
from pointsman_calib.rounding import BlockFormat, round_blocks
from pointsman_calib.schemes.weight_only.block_products import BlockWeight
from pointsman_calib.schemes.weight_only.integer_products import IntegerWeight
from pointsman_calib.settle.scores import score

OUT = 48
UNSUITED = {"MatMulIntegerToFloat", "GatherBlockQuantized", "Attention"}


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def value(name, array):
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)


def fed(name, dtype, rank):
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape([None] * rank))


def graph_of(inputs, initializers, build):
    graph = ir.Graph(inputs, [], nodes=[], initializers=initializers, opset_imports={"": 24, DOMAIN: 1})
    expression = Expression("node", graph)
    graph.outputs.append(build(expression))
    graph.extend(expression.nodes)
    return graph


def run(graph, feeds):
    make_exact(options := onnxruntime.SessionOptions())
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    (found,) = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, feeds)
    return found


def both(graph, feeds):
    """What a graph gives as it is, and as it would be run on CUDA."""
    given = run(graph, feeds)
    suit_cuda(graph)
    assert not {node.op_type for node in graph} & UNSUITED
    return given, run(graph, feeds)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("width", [192, 3072])
def test_products_of_integers_are_the_same_to_the_last_bit(width, fine, relu):
    rounded = round_blocks(floats(width, OUT, seed=1), BlockFormat(bits=8, block_size=None))
    codes, scales = value("codes", rounded.signed_codes()), value("scales", rounded.scales.reshape(-1))
    operand, inputs = IntegerWeight(codes, scales), fed("inputs", ir.DataType.FLOAT, 3)

    def build(expression):
        factor = expression.op("Relu", [inputs]) if relu else inputs
        return operand.product(expression, operand.prepared(expression, factor, fine=fine), fine=fine)

    rows = floats(2, 7, width)
    rows[0, 0] = 0
    given, found = both(graph_of([inputs], [codes, scales], build), {"inputs": rows})
    np.testing.assert_array_equal(found, given)


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize(("width", "block_size"), [(192, 32), (192, 64), (200, 16), (40, 64)])
def test_products_of_blocks_round_their_inputs(width, block_size, fine):
    """As the CPU's kernel does; without that they would be a hundred times as far from it."""
    form = BlockFormat(bits=4, block_size=block_size)
    rounded = round_blocks(floats(width, OUT, seed=1), form)
    codes, scales = value("codes", rounded.packed_codes()), value("scales", rounded.scales)
    operand, inputs = BlockWeight(codes, scales, 4, block_size, width, OUT), fed("inputs", ir.DataType.FLOAT, 3)
    fine = fine and operand.can_be_fine

    def build(expression):
        return operand.product(expression, operand.prepared(expression, inputs, fine=fine), fine=fine)

    rows = floats(1, 6, width)
    rows[0, 1] = 0
    given, found = both(graph_of([inputs], [codes, scales], build), {"inputs": rows})
    assert np.abs(found - given).max() < 1e-5 * np.abs(given).max()


def test_look_ups_are_the_same_to_the_last_bit():
    table = round_blocks(floats(64, 20, seed=1), BlockFormat(bits=8, block_size=32))
    rows, scales = value("rows", table.packed_codes().reshape(20, -1)), value("scales", table.scales)
    ids = fed("ids", ir.DataType.INT64, 2)
    graph = graph_of([ids], [rows, scales], lambda expression: expression.lookup(rows, scales, ids, 32))
    given, found = both(graph, {"ids": np.array([[3, 0, 19], [7, 7, 1]])})
    np.testing.assert_array_equal(found, given)


def test_codes_of_stacked_experts_are_the_same_to_the_last_bit():
    codes = np.random.default_rng(0).integers(-127, 128, (3, 20, 8), dtype=np.int8)
    weight, scales = value("codes", codes), value("scales", np.abs(floats(3, 1, 8, seed=1)))
    inputs, attributes = fed("inputs", ir.DataType.FLOAT, 3), {"axis": 1, "block_size": 20}
    graph = graph_of(
        [inputs],
        [weight, scales],
        lambda nodes: nodes.op("MatMul", [inputs, nodes.op("DequantizeLinear", [weight, scales], attributes)]),
    )
    given, found = both(graph, {"inputs": floats(3, 5, 20)})
    assert "DequantizeLinear" not in {node.op_type for node in graph}
    np.testing.assert_array_equal(found, given)


def test_attention_in_parts():
    heads, names = 3, ("query", "key", "value")
    projected = [fed(name, ir.DataType.FLOAT, 3) for name in names]
    bias = fed("bias", ir.DataType.FLOAT, 4)
    attributes = {"q_num_heads": heads, "kv_num_heads": heads, "scale": 1.0}
    graph = graph_of([*projected, bias], [], lambda nodes: nodes.op("Attention", [*projected, bias], attributes))
    feeds = {name: floats(2, 5, heads * 4, seed=seed) for seed, name in enumerate(names)}
    mask = floats(2, heads, 5, 5, seed=9)
    mask[1, :, :, 3:] = np.finfo(np.float32).min
    given, found = both(graph, feeds | {"bias": mask})
    np.testing.assert_allclose(found, given, atol=1e-6)


@pytest.fixture
def on_the_host(monkeypatch):
    """The CPU in the GPU's place."""
    monkeypatch.setitem(pieces.PROVIDERS, "cuda", "CPUExecutionProvider")
    monkeypatch.setitem(pieces._PROVIDER_OPTIONS, "cuda", {})


@pytest.mark.parametrize("name", ["fused-float32", "fused-int8", "fused-int4"])
@pytest.mark.usefixtures("on_the_host")
def test_scores_are_those_of_the_cpu(quantized_bundle, corpus, name):
    manifest = read_manifest(quantized_bundle)
    variant = manifest.variants[name]

    def scored(device):
        graphs = graph_files(quantized_bundle, variant)
        run = PiecewiseRun(graphs, variant, lambda: corpus.batches(manifest.architecture, 4), device=device)
        return score(run)

    ours, theirs = scored("cuda"), scored("cpu")
    assert ours.agreement_with(theirs) > 0.98  # a last bit can decide between two codes of an input
    assert ours.rerouted_from(theirs) < 0.02
    assert np.median(np.abs(ours.losses - theirs.losses)) < 1e-4
