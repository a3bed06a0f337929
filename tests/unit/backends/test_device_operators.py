"""Graphs with operators of ONNX Runtime's own: fewer kernels, the same values.

In bfloat16 they run on GPUs alone; here the same change is made to float32's graphs, whose operators the CPU has too.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx_ir.serde import to_proto

from architectures import BASE_8
from checkpoints import Spec, write_checkpoint
from pointsman import DecodingOptions, SwitchModel
from pointsman.backends.onnxruntime.cuda import DeviceModel
from pointsman.backends.onnxruntime.models.device_operators import with_device_operators
from pointsman.backends.onnxruntime.models.graphs import FLOAT
from pointsman.bundle import ROLES, Architecture, Dtype, Stack, read_manifest
from pointsman_export.bundle import export_bundle
from pointsman_export.graphs.decoder import decoder_graph
from pointsman_export.graphs.encoder import encoder_graph
from pointsman_export.graphs.weights import places, plan
from pointsman_export.network import Build, Precision
from unit.backends.conftest import VARIANT
from unit.backends.host_onnxruntime import on_the_host
from unit.backends.test_tensorrt_backend import CASES, INPUTS, check

NO_KERNEL = {"Reshape", "Squeeze", "Unsqueeze"}


@pytest.fixture(scope="module", params=[64, 2], ids="capacity {}".format)
def bundle(tmp_path_factory, request):
    """Of sizes that the kernels of `MoE` take; with a capacity of two, the encoder drops tokens."""
    folder = tmp_path_factory.mktemp("wide")
    spec = Spec(d_model=64, d_ff=128, expert_capacity=request.param)
    checkpoint = write_checkpoint(folder / "checkpoint", spec, tokenizer=True)
    export_bundle(checkpoint, folder / "bundle", forms=["portable"])
    return folder / "bundle"


@pytest.fixture(scope="module")
def reference(bundle):
    return SwitchModel.load(bundle, device="cpu", variant=VARIANT, threads=1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tokens_and_scores(bundle, reference, case):
    options, model = DecodingOptions(max_new_tokens=14, **case), on_the_host(bundle, VARIANT, own_operators=True)
    expected = reference.generate(INPUTS, options)
    for _ in range(3):  # done, recorded, replayed
        check(model.generate(INPUTS, options), expected)


def test_what_is_exchanged(bundle):
    """Two of four blocks are sparse in each half; no bucket is left, and nothing that nobody reads."""
    counts = {}
    variant = read_manifest(bundle).variants[VARIANT]
    for graph, _, model, weights in (DeviceModel.of(bundle, variant, role, FLOAT) for role in ROLES):
        read = onnx.load_from_string(model)
        counts[graph.file] = Counter(node.op_type for node in read.graph.node)
        assert {opset.domain for opset in read.opset_import} == {"", "com.microsoft"}
        declared = {each.name for each in read.graph.initializer}
        assert weights.keys() <= declared
        used = {name for node in read.graph.node for name in node.input}
        assert weights.keys() <= used
        read_by_somebody = used | {result.name for result in read.graph.output}
        assert all(read_by_somebody.intersection(node.output) for node in read.graph.node)
    encoder, step = counts.values()
    assert (encoder["SkipSimplifiedLayerNormalization"], encoder["Split"], encoder["MoE"]) == (8, 5, 2)
    assert not {"ScatterElements", "GatherElements", "Expand", "ConstantOfShape"} & encoder.keys()
    assert (step["SkipSimplifiedLayerNormalization"], step["Split"], step["MoE"]) == (12, 4, 2)
    assert step["RMSNormalization"] == encoder["RMSNormalization"] == 1


def test_float32_is_left_as_it_is(bundle):
    variant = read_manifest(bundle).variants[VARIANT]
    for _, path, model, weights in (DeviceModel.of(bundle, variant, role) for role in ROLES):
        assert model == path.read_bytes()
        assert not weights


def changed(architecture: Architecture, dtype: Dtype = "bfloat16", graph=decoder_graph) -> onnx.GraphProto:
    build = Build(architecture, "portable", Precision.of(dtype), capacity=64)
    model = graph(
        build.of_one_position if graph is decoder_graph else build,
        places(plan(architecture, dtype), Path("weights.bin")),
    )
    return onnx.load_from_string(with_device_operators(to_proto(model).SerializeToString())[0]).graph


def test_kernels_of_a_step_of_base_8():
    """385 before the exchange; each `MoE` is counted as the eight that it launches."""
    found = Counter(node.op_type for node in changed(BASE_8).node)
    assert found["MoE"] == 6
    kernels = sum(count for name, count in found.items() if name not in NO_KERNEL) - BASE_8.decoder.layers
    assert kernels + 7 * found["MoE"] <= 370, found


def test_a_recorded_split_has_few_outputs():
    """Keys and values of 24 decoder blocks, all of the encoder's output, are two products; each q, k and v is one."""
    deep = replace(BASE_8, decoder=Stack(layers=24, sparse_layers=(1,)))
    graph = changed(deep, graph=encoder_graph)
    assert Counter(len(node.output) for node in graph.node if node.op_type == "Split") == {24: 2, 3: 12}


@pytest.mark.parametrize(
    ("changes", "experts"),
    [
        ({"gated": True, "activation": "gelu_tanh"}, 0),
        ({"d_ff": 3000}, 0),
        ({"num_experts": 128}, 6),
    ],
)
def test_experts_that_moe_does_not_take_are_fetched(changes, experts):
    found = Counter(node.op_type for node in changed(replace(BASE_8, **changes)).node)
    assert found["MoE"] == experts
    assert found["SkipSimplifiedLayerNormalization"] == 36


def test_half_precision_of_another_kind_is_left_as_it_is():
    assert not {node.domain for node in changed(BASE_8, "float16").node} - {""}


def test_graphs_with_branches_are_left_as_they_are(tmp_path):
    """What only a branch reads would be taken for unread."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint", Spec(d_model=64, d_ff=128), tokenizer=True)
    export_bundle(checkpoint, tmp_path / "bundle", forms=["fused"])
    variant = read_manifest(tmp_path / "bundle").variants["fused-float32"]
    for role in ROLES:
        given = DeviceModel.of(tmp_path / "bundle", variant, role, FLOAT)
        assert given.model == given.path.read_bytes()
        assert not given.weights
