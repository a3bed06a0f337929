"""Q/DQ put into small graphs: what is computed, and what feeds what."""

import tracemalloc

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from checkpoints import CHECKPOINTS
from pointsman.backends.onnxruntime.weights.saturation import make_exact
from pointsman.bundle import names
from pointsman_calib.graphs.products import Product, products
from pointsman_calib.schemes.qdq.graphs import rewrite
from pointsman_calib.schemes.qdq.weights import output_axes, write_weights
from tolerances import Q_DQ

RNG = np.random.default_rng(0)
SCALE = np.float32(0.03)


def external(folder, **arrays):
    """Arrays in external data, as a float variant has them."""
    path, offset, tensors = folder / "float.bin", 0, {}
    for name, array in arrays.items():
        with path.open("ab") as file:
            file.write(array.tobytes())
        shape = ir.Shape(array.shape)
        tensors[name] = ir.ExternalTensor(
            path.name, offset, array.nbytes, ir.DataType.FLOAT, shape=shape, name=name, base_dir=folder
        )
        offset += array.nbytes
    return tensors


def graph(inputs, nodes, tensors):
    initializers = [node_input for node in nodes for node_input in node.inputs if node_input.name in tensors]
    for value in initializers:
        tensor = tensors[value.name]
        value.shape, value.dtype, value.const_value = tensor.shape, tensor.dtype, tensor
    outputs = [node.outputs[0] for node in nodes if not node.outputs[0].uses()]
    for output in outputs:
        output.dtype = ir.DataType.FLOAT
    made = ir.Graph(
        inputs, outputs, nodes=nodes, initializers=list(dict.fromkeys(initializers)), opset_imports={"": 23}, name="g"
    )
    return ir.Model(made, ir_version=10)


def named(node, name):
    node.outputs[0].name = name
    return node.outputs[0]


def value(name, *shape, dtype=ir.DataType.FLOAT):
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def quantized(model, folder, factors=None):
    """Quantize all of a graph's products in place."""
    found = list(products(model.graph, "decoder"))
    axes = output_axes(found, CHECKPOINTS["tied"].architecture)
    path = folder / "weights.bin"
    weights, kept, _ = write_weights([model], axes, factors or {}, path, progress=lambda _: None)
    rewrite(model, found, {product.tensor: SCALE for product in found}, weights, kept)
    return found, weights


def run(model, folder, feeds, *, optimized):
    path = folder / "model.onnx"
    ir.save(model, path)
    make_exact(options := onnxruntime.SessionOptions())
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def rounded(array):
    """What INT8 with `SCALE` makes of activations."""
    return np.clip(np.rint(array / SCALE), -128, 127) * SCALE


def dequantized(weight):
    """What the weight's codes stand for, by the definition of blocked DequantizeLinear."""
    codes, scales = weight.codes.numpy().astype(np.float32), weight.scales.numpy()
    if codes.ndim == 3:
        assert scales.shape == (codes.shape[0], 1, codes.shape[2])
        return codes * scales
    return codes * np.expand_dims(scales, 1 - weight.axis)


@pytest.mark.parametrize("optimized", [False, True])
def test_a_dense_product_a_router_and_a_tied_head(tmp_path, optimized):
    arrays = {
        "decoder.wi.weight": RNG.standard_normal((16, 24)).astype(np.float32),
        "decoder.mlp.router.classifier.weight": RNG.standard_normal((16, 4)).astype(np.float32),
        "shared.weight": RNG.standard_normal((40, 16)).astype(np.float32),
    }
    tensors = external(tmp_path, **arrays)
    hidden, ids = value("hidden", 5, 16), value("ids", 3, dtype=ir.DataType.INT64)
    shared = value("shared.weight")
    nodes = [
        ir.node("Gather", [shared, ids], name="embed"),
        ir.node("MatMul", [hidden, value("decoder.wi.weight")], name="wi"),
        ir.node("MatMul", [hidden, value("decoder.mlp.router.classifier.weight")], name="router"),
        ir.node("Gemm", [hidden, shared], {"transB": 1}, name="head"),
    ]
    for node in nodes:
        named(node, node.name)
    model = graph([hidden, ids], nodes, tensors)
    found, weights = quantized(model, tmp_path)
    assert [(product.weight, product.output_axis) for product in found] == [
        ("decoder.wi.weight", 1),
        ("shared.weight", 0),
    ]
    x = (RNG.standard_normal((5, 16)) * 1.5).astype(np.float32)
    rows = np.array([3, 39, 0])
    got = run(model, tmp_path, {"hidden": x, "ids": rows}, optimized=optimized)
    embedding = dequantized(weights["shared.weight"])
    expected = [
        embedding[rows],
        rounded(x) @ dequantized(weights["decoder.wi.weight"]),
        x @ arrays["decoder.mlp.router.classifier.weight"],
        rounded(x) @ embedding.T,
    ]
    for one, other, node in zip(got, expected, nodes, strict=True):
        Q_DQ.check(one, other, node.name)
    for name in ("decoder.wi.weight", "shared.weight"):
        assert np.abs(dequantized(weights[name]) - arrays[name]).max() <= weights[name].scales.numpy().max() / 2 + 1e-6


@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("gathered", [False, True])
def test_experts_have_scales_of_their_own(tmp_path, optimized, gathered):
    name = "decoder.block.1.layer.2.mlp.experts.wi"
    loudness = np.array([0.1, 1.0, 30.0], np.float32)[:, None, None]
    stack = RNG.standard_normal((3, 16, 8)).astype(np.float32) * loudness
    tensors = external(tmp_path, **{name: stack})
    hidden = value("hidden", *((5, 1, 16) if gathered else (3, 5, 16)))
    weight, chosen = value(name), value("chosen", 5, dtype=ir.DataType.INT64)
    nodes, right = [], weight
    if gathered:
        nodes.append(ir.node("Gather", [weight, chosen], {"axis": 0}, name="fetch"))
        right = named(nodes[0], "fetched")
    nodes.append(ir.node("MatMul", [hidden, right], name="wi"))
    named(nodes[-1], "inner")
    model = graph([hidden, chosen] if gathered else [hidden], nodes, tensors)
    factors = {name: np.array([2.0, 1.0, 0.5], np.float32)}
    found, weights = quantized(model, tmp_path, factors)
    place = {"layer": "decoder.block.1.layer.2.mlp", "gathered": gathered}
    assert found == [Product(role="decoder", weight=name, inputs="hidden", width=16, output_axis=2, **place)]
    x = RNG.standard_normal(hidden.shape.numpy()).astype(np.float32)
    experts = np.array([2, 0, 1, 0, 2])
    feeds = {"hidden": x, "chosen": experts} if gathered else {"hidden": x}
    (got,) = run(model, tmp_path, feeds, optimized=optimized)
    meant = dequantized(weights[name])
    Q_DQ.check(got, rounded(x) @ (meant[experts] if gathered else meant))
    unfactored = meant / factors[name][:, None, None]
    assert (np.abs(unfactored - stack) <= np.abs(stack).max(axis=1, keepdims=True) / 254 * 1.001).all()


def test_experts_are_rounded_one_at_a_time(tmp_path):
    name = "encoder.block.1.layer.1.mlp.experts.wi"
    stack = RNG.standard_normal((24, 96, 128)).astype(np.float32)
    tensors = external(tmp_path, **{name: stack})
    model = graph([hidden := value("hidden", 24, 1, 96)], [node := ir.node("MatMul", [hidden, value(name)])], tensors)
    named(node, "inner")
    tracemalloc.start()
    try:
        write_weights([model], {name: 2}, {}, tmp_path / "weights.bin", progress=lambda _: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < stack.nbytes / 3


def test_codes_feed_dequantization_and_nothing_else(exports, tmp_path):
    export = exports("tied", "portable")
    for role in ("encoder", "decoder"):
        model = ir.load(export.graph(role))
        found = list(products(model.graph, role))
        axes = output_axes(found, CHECKPOINTS["tied"].architecture)
        weights, kept, _ = write_weights([model], axes, {}, tmp_path / "weights.bin", progress=lambda _: None)
        rewrite(model, found, {product.tensor: SCALE for product in found}, weights, kept)
        assert weights.keys().isdisjoint(model.graph.initializers)
        for name in weights:
            (use,) = model.graph.initializers[f"{name}.codes"].uses()
            assert use.node.op_type == "DequantizeLinear"
        kinds = [node.op_type for node in model.graph]
        inputs = {product.inputs for product in found}
        assert kinds.count("QuantizeLinear") == len(inputs)
        assert kinds.count("DequantizeLinear") == len(inputs) + len(weights)
        assert any(names.is_router(name) for name in kept)
