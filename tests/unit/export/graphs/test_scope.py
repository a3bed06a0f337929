"""Names, types and constants of nodes under construction."""

import numpy as np
import onnx_ir as ir
import pytest

from architectures import BASE_8
from pointsman.bundle import encoder_specs, names
from pointsman_export.graphs.scope import Branch, Scope, finished, graph_inputs, new_graph


@pytest.fixture
def layer() -> Scope:
    weight = ir.tensor(np.ones((4, 2), np.float16), name="decoder.block.10.layer.0.q.weight")
    return new_graph({weight.name: weight}).at("decoder.block.10").at("layer.0")


@pytest.fixture
def ids() -> ir.Value:
    inputs, _ = encoder_specs(BASE_8, "float32")
    return graph_inputs(inputs)[names.INPUT_IDS]


def test_nodes_and_values_are_named_after_modules(layer, ids):
    first, second = layer.op("Identity", ids), layer.op("Identity", ids)
    assert [node.name for node in layer.nodes] == [
        "/decoder/block.10/layer.0/Identity",
        "/decoder/block.10/layer.0/Identity_1",
    ]
    assert [first.name, second.name] == [f"{node.name}:0" for node in layer.nodes]
    assert layer.at("q").op("Identity", ids).name == "/decoder/block.10/layer.0/q/Identity:0"


def test_weights_are_the_modules_own_and_constants_are_shared(layer):
    q = layer.at("q")
    assert q.weight() is q.weight()
    assert q.weight().name == "decoder.block.10.layer.0.q.weight"
    one, same, other = layer.constant([1, 2]), q.constant(range(1, 3)), layer.constant(np.array([1, 2], np.int32))
    assert one is same
    assert one is not other
    assert list(layer.construction.initializers) == [q.weight().name, one.name, other.name]
    with pytest.raises(KeyError):
        layer.weight("absent")


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "dtype"),
    [
        ("Shape", 1, {}, "INT64"),
        ("ArgMax", 1, {}, "INT64"),
        ("Less", 2, {}, "BOOL"),
        ("Cast", 1, {"to": ir.DataType.FLOAT}, "FLOAT"),
        ("ConstantOfShape", 1, {"value": ir.tensor(np.zeros(1, np.float16))}, "FLOAT16"),
        ("Neg", 1, {}, "INT64"),
    ],
)
def test_types(layer, ids, operator, inputs, attributes, dtype):
    assert layer.op(operator, *[ids] * inputs, **attributes).dtype.name == dtype


def test_types_that_follow_from_another_input(layer, ids):
    chosen = layer.op("Where", layer.op("Less", ids, ids), layer.at("q").weight(), layer.at("q").weight())
    assert chosen.dtype == ir.DataType.FLOAT16
    values, places = layer.outputs(2, "TopK", chosen, ids)
    assert (values.dtype, places.dtype) == (ir.DataType.FLOAT16, ir.DataType.INT64)


def test_a_cast_only_where_it_changes_something(layer):
    weight = layer.at("q").weight()
    assert layer.cast(weight, "float16") is weight
    assert layer.cast(weight, "float32").dtype == ir.DataType.FLOAT
    assert [node.op_type for node in layer.nodes] == ["Cast"]


def test_branches_have_nodes_and_constants_of_their_own(layer, ids):
    taken, skipped = layer.branched("here.taken"), layer.branched("here.skipped")
    results = taken.op("Add", ids, taken.constant([1])), skipped.op("Identity", ids)
    branches = [Branch(place, result, ids.type) for place, result in zip((taken, skipped), results, strict=True)]
    output = layer.choice(layer.op("Less", ids, ids), *branches)
    assert output.dtype == ir.DataType.INT64
    assert [node.op_type for node in layer.nodes] == ["Less", "If"]
    first, second = (layer.nodes[-1].attributes[f"{name}_branch"].as_graph() for name in ("then", "else"))
    assert [node.name for node in first] == ["/here/taken/Constant", "/here/taken/Add"]
    assert [node.name for node in second] == ["/here/skipped/Identity"]
    assert layer.construction.initializers == {}


def test_a_finished_graph_has_the_names_and_axes_of_its_interface(ids):
    inputs, _ = encoder_specs(BASE_8, "float32")
    graph, values = new_graph({}), graph_inputs(inputs)
    doubled = graph.op("Add", values[names.INPUT_IDS], values[names.INPUT_IDS])
    model = finished(graph, "encoder", values, {names.ATTENTION_MASK: doubled}, inputs[1:])
    assert [value.name for value in model.graph.inputs] == [names.INPUT_IDS, names.ATTENTION_MASK]
    assert [value.name for value in model.graph.outputs] == [names.ATTENTION_MASK]
    assert [str(axis) for axis in doubled.shape] == ["batch", "source"]
    assert (model.producer_name, model.graph.name) == ("pointsman", "encoder")
