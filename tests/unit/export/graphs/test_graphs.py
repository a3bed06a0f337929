"""What is written is clean ONNX: named after modules, complete, and of the operators that its form promises."""

import re
import sysconfig
from collections import Counter
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from exports import FORMS
from pointsman.bundle import names
from pointsman.bundle.writing import ALIGNMENT
from pointsman_export.architecture import expected_tensors
from pointsman_export.graphs.scope import OPSET

SIDES = ("encoder", "decoder")
# With drops, with gates and none, and in both narrow precisions.
CASES = [
    ("tied", "reference", "float32", "fused"),
    ("tied", "reference", "float32", "portable"),
    ("gated", "none", "float32", "fused"),
    ("gated", "none", "float32", "portable"),
    ("tied", "reference", "float16", "fused"),
    ("tied", "reference", "float16", "portable"),
    ("tied", "reference", "bfloat16", "fused"),
    ("tied", "reference", "bfloat16", "portable"),
]
OF_TRAINING = {"Dropout", "BatchNormalization", "Bernoulli", "RandomNormal", "RandomUniform", "RandomUniformLike"}
UNFIT_FOR_ENGINES = {"If", "Loop", "Scan", "NonZero", "Compress", "Unique", "SequenceEmpty", "NonMaxSuppression"}
SMALL = 4096  # bytes of a constant that may stay in the graph


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def case(request):
    return request.param


@pytest.fixture(scope="module")
def form(case):
    return case[3]


@pytest.fixture(scope="module")
def export(exports, case):
    name, capacity, dtype, form = case
    return exports(name, form, capacity=capacity, dtype=dtype)


@pytest.fixture(scope="module")
def graphs(export):
    return {side: ir.load(export.graph(side)) for side in SIDES}


def all_nodes(model: ir.Model) -> list[ir.Node]:
    return list(ir.traversal.RecursiveGraphIterator(model.graph))


def modules(export) -> set[str]:
    """Every module that a tensor of the checkpoint lies in, and the modules that these lie in."""
    parts = [name.split(".")[:-1] for name in expected_tensors(export.spec.architecture)]
    return {".".join(path[:depth]) for path in parts for depth in range(len(path) + 1)}


def slashed(path: str) -> str:
    """Block and layer numbers stay with their names: `/decoder/block.0/layer.1`."""
    return re.sub(r"/(\d+)", r".\1", "/" + path.replace(".", "/")) if path else ""


def test_the_checker_passes_with_all_shapes_inferred(export):
    for side in SIDES:
        onnx.checker.check_model(export.graph(side), full_check=True)


def test_one_opset_and_only_standard_operators(graphs):
    for model in graphs.values():
        assert dict(model.opset_imports) == {"": OPSET}
        assert not model.functions
        for node in all_nodes(model):
            assert node.domain == ""
            assert onnx.defs.has(node.op_type, OPSET)


def test_nothing_of_training(graphs):
    for model in graphs.values():
        assert not {node.op_type for node in all_nodes(model)} & OF_TRAINING


def test_the_portable_form_has_no_control_flow_and_no_shapes_that_depend_on_data(graphs, form):
    for model in graphs.values():
        found = {node.op_type for node in all_nodes(model)} & UNFIT_FOR_ENGINES
        assert found == ({"If"} if form == "fused" else set())


def test_names_of_nodes_and_values_are_unique_even_across_branches(graphs):
    for model in graphs.values():
        nodes = all_nodes(model)
        for found in (
            [node.name for node in nodes],
            [*(value.name for node in nodes for value in node.outputs), *(i.name for i in model.graph.inputs)],
        ):
            assert all(found)
            assert [name for name, count in Counter(found).items() if count > 1] == []


def test_nodes_are_named_after_modules(graphs, export, form):
    known = {slashed(path) for path in modules(export)}
    branches = re.compile(r"(/\w+/block\.\d+/layer\.\d/mlp)/(experts?\.\d+(_\d+)?/(hit|idle)|overflow|fits)")
    for model in graphs.values():
        for node in all_nodes(model):
            path, _, operator = node.name.rpartition("/")
            assert re.fullmatch(rf"{node.op_type}(_\d+)?", operator)
            if path not in known:
                match = branches.fullmatch(path)
                assert match, node.name
                assert match[1] in known
                assert form == "fused"


def test_the_product_of_every_linear_module_carries_its_name(graphs, export):
    """As tools show it: `/decoder/block.0/layer.0/SelfAttention/q/MatMul`."""
    products = {
        weight.name: node.name
        for model in graphs.values()
        for node in all_nodes(model)
        if node.op_type == "MatMul"
        for weight in node.inputs
        if weight.const_value is not None
    }
    linear = [path for path in modules(export) if re.search(r"Attention\.[qkvo]$|classifier$|^lm_head$", path)]
    assert len(linear) > 12
    for path in linear:
        assert products[f"{path}.weight"] == f"{slashed(path)}/MatMul"


def test_the_encoders_self_attention_is_one_node_in_the_fused_form_in_float32(graphs, export, case):
    attentions = {side: [n.name for n in all_nodes(graphs[side]) if n.op_type == "Attention"] for side in SIDES}
    layers = export.spec.architecture.encoder.layers if case[2:] == ("float32", "fused") else 0
    assert attentions == {"encoder": [f"/encoder/block.{i}/layer.0/Attention" for i in range(layers)], "decoder": []}


def test_caches_are_updated_where_they_come_in_and_go_out(graphs, export):
    """Nothing stands between the input, the update and the output, so that all can be the same memory."""
    graph, layers = graphs["decoder"].graph, range(export.spec.architecture.decoder.layers)
    updates = [node for node in graph if node.op_type == "TensorScatter"]
    pairs = [pair for i in layers for pair in zip(names.past_names(i), names.present_names(i), strict=True)]
    assert [(node.inputs[0].name, node.outputs[0].name) for node in updates] == pairs
    assert {node.inputs[2].name for node in updates} == {names.LENGTHS}
    cached = [node.inputs[0] for node in updates]
    assert {user.op_type for value in cached for user in value.consumers()} == {"TensorScatter"}


def test_blocks_hand_on_values_named_after_them(graphs, export):
    architecture = export.spec.architecture
    for side in SIDES:
        computed = {value.name for node in graphs[side].graph for value in node.outputs}
        assert {f"{side}.block.{i}" for i in range(getattr(architecture, side).layers)} <= computed


def test_inputs_and_outputs_are_those_of_the_manifest(graphs, export):
    (variant,) = export.manifest.variants.values()
    for side in SIDES:
        graph, declared = graphs[side].graph, getattr(variant, side)
        for values, specs in ((graph.inputs, declared.inputs), (graph.outputs, declared.outputs)):
            found = [(v.name, v.dtype.name.lower().replace("float", "float"), tuple(map(str, v.shape))) for v in values]
            dtypes = {"float": "float32", "float16": "float16", "bfloat16": "bfloat16", "int64": "int64"}
            assert [(name, dtypes[dtype], axes) for name, dtype, axes in found] == [
                (spec.name, spec.dtype, tuple(map(str, spec.axes))) for spec in specs
            ]


def test_initializers_are_the_checkpoints_tensors_under_their_names(graphs, export, form):
    """Together the two graphs use every one; a layer's experts are one by one in the fused form, stacked otherwise."""
    wanted = set(expected_tensors(export.spec.architecture))
    if form == "portable":
        wanted = {re.sub(r"\.expert_\d+\.(\w+)\.weight$", r".\1", name) for name in wanted}
    external = {
        name
        for model in graphs.values()
        for name, value in model.graph.initializers.items()
        if isinstance(value.const_value, ir.ExternalTensor)
    }
    assert external == wanted
    inside = {name for model in graphs.values() for name in model.graph.initializers} - external
    assert all(re.fullmatch(r"constant\.\d+", name) for name in inside)


def test_weights_lie_in_one_file_on_pages_and_small_constants_in_the_graph(graphs, form):
    for model in graphs.values():
        for name, initializer in model.graph.initializers.items():
            data = initializer.const_value
            if isinstance(data, ir.ExternalTensor):
                assert data.location == "weights.bin"
                assert data.length == data.nbytes
                number = int(match[1]) if (match := re.search(r"\.expert_(\d+)\.", name)) else 0
                assert (data.offset - number * data.length) % ALIGNMENT == 0, name
            else:
                assert data.nbytes <= SMALL, name


def test_graphs_stay_small(export):
    for side in SIDES:
        assert export.graph(side).stat().st_size < 1_000_000


def test_no_trace_of_the_exporting_machine(graphs, export):
    for side in SIDES:
        written = export.graph(side).read_bytes()
        for secret in (
            str(Path.home()),
            str(Path.cwd()),
            sysconfig.get_path("purelib"),
            str(export.folder),
        ):
            assert secret.encode() not in written
        model = graphs[side]
        assert (model.producer_name, model.producer_version, model.doc_string) == ("pointsman", None, None)
        assert not model.metadata_props
        assert not any(node.metadata_props or node.doc_string for node in all_nodes(model))
        assert model.graph.name == side


def test_forms_share_their_weights(exports):
    first, second = (
        {Path(file.path).name: file.sha256 for variant in export.manifest.variants.values() for file in variant.files}
        for export in (exports("tied", form) for form in FORMS)
    )
    assert first["weights.bin"] == second["weights.bin"]
