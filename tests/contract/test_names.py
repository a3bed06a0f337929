"""Names of the contract: written graphs have them, and no file but `pointsman.bundle` spells them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
import pytest

from exports import FORMS
from places import ROOT
from pointsman.bundle import names
from pointsman_export.architecture import expected_tensors

# Packages that take every name from `pointsman.bundle.names`.
PACKAGES = ("runtime/pointsman", "export/pointsman_export", "calib/pointsman_calib", "benchmarks")
CONTRACT = ROOT / "runtime/pointsman/bundle"
OF_OTHERS = ROOT / "benchmarks/contestants/reference.py"  # keywords of transformers, which have the same names

# Spelled anywhere, even as a part of something longer.
PARTS = (
    names.MANIFEST,
    names.SPIECE,
    names.TOKENIZER_JSON,
    names.WEIGHTS,
    names.RANGES,
    f"{names.VARIANTS}/",
    f"{names.PLANS}/",
    *(f"{kind}_{what}." for kind in ("cross", "past", "present") for what in ("key", "value")),
    names.EMBEDDING,
    names.HEAD,
    ".experts.",
    ".router.",
    ".block.",
    r"\.block\.",
    "/ArgMax",
    "RMSNormalization:",
    names.SELF_ATTENTION,
    names.CROSS_ATTENTION,
    f"{names.LAYER_NORM}.weight",
)
SUFFIXES = (".onnx", ".plan")
# Spelled alone: as words they may stand in a sentence.
WORDS = (
    names.LAYER_NORM,
    names.INPUT_IDS,
    names.ATTENTION_MASK,
    names.LENGTHS,
    names.CACHE_POSITIONS,
    names.ATTENDING_QUERIES,
    names.ATTENDED_PLACES,
    names.LOGITS,
)
PROSE = {"help", "description"}  # arguments that a person reads


def spelled(source: str) -> Iterator[str]:
    """String constants that are neither documentation nor help."""
    tree = ast.parse(source)
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in PROSE:
            skipped |= {id(part) for part in ast.walk(node.value)}
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


def offences(source: str) -> list[str]:
    return [text for text in spelled(source) if is_name(text)]


def is_name(text: str) -> bool:
    return text in WORDS or text.endswith(SUFFIXES) or any(part in text for part in PARTS)


@pytest.mark.parametrize("package", PACKAGES)
def test_names_are_spelled_in_one_place(package):
    found = {
        path.relative_to(ROOT).as_posix(): offences(path.read_text(encoding="utf-8"))
        for path in (ROOT / package).rglob("*.py")
        if CONTRACT not in path.parents and path != OF_OTHERS
    }
    assert len(found) > 10
    assert {path: texts for path, texts in found.items() if texts} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('path = folder / "weights.bin"', ["weights.bin"]),
        ('name = f"{layer}.experts.expert_{k}"', [".experts.expert_"]),
        ('names = {"input_ids": 1}', ["input_ids"]),
        ('value = graph["logits"]', ["logits"]),
        ('raise ValueError("the logits are not finite")', []),
        ('parser.add_argument("--graph", help="such as fused.encoder.onnx")', []),
        ('def read():\n    """Read weights.bin."""\n', []),
        ("value = graph[names.LOGITS]", []),
    ],
)
def test_what_counts_as_spelling(source, found):
    assert offences(source) == found


@pytest.fixture(scope="module", params=[(name, form) for name in ("tied", "gated", "short-decoder") for form in FORMS])
def export(request, exports):
    name, form = request.param
    return exports(name, form)


@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_written_graphs_have_the_values_that_others_look_for(export, role):
    graph, architecture = ir.load(export.graph(role)).graph, export.spec.architecture
    stack = getattr(architecture, role)
    computed = {value.name for node in graph for value in node.outputs}
    sparse = [names.sparse_layer(role, number) for number in stack.sparse_layers]
    assert {names.block_path(role, number) for number in range(stack.layers)} <= computed
    assert {names.expert_choice(layer) for layer in sparse} <= computed
    assert {names.norm_output(layer) for layer in sparse} <= computed
    modules = {node.name.rpartition("/")[0] for node in graph}
    assert {names.node_path(layer) for layer in sparse} <= modules


def test_written_graphs_have_the_inputs_and_outputs_of_the_contract(export):
    encoder, decoder = (ir.load(export.graph(role)).graph for role in ("encoder", "decoder"))
    layers, names_of_tokens = range(export.spec.decoder_layers), [names.INPUT_IDS, names.ATTENTION_MASK]
    attended = [names.ATTENDING_QUERIES, names.ATTENDED_PLACES]
    cross, past, present = (
        [name for layer in layers for name in names_of(layer)]
        for names_of in (names.cross_names, names.past_names, names.present_names)
    )
    found = [
        [value.name for value in values] for graph in (encoder, decoder) for values in (graph.inputs, graph.outputs)
    ]
    assert found == [
        names_of_tokens,
        cross,
        [*names_of_tokens, names.LENGTHS, names.CACHE_POSITIONS, *attended, *cross, *past],
        [names.LOGITS, *present],
    ]


def test_written_graphs_have_the_weights_under_their_names(export):
    architecture = export.spec.architecture
    graphs = [ir.load(export.graph(role)).graph for role in ("encoder", "decoder")]
    weights = {name for graph in graphs for name in graph.initializers}
    (form,) = {variant.form for variant in export.manifest.variants.values()}
    for name in expected_tensors(architecture):
        expert = names.expert_of(name)
        if expert and form == "portable":
            layer, _, projection = expert
            assert names.stacked_experts(layer, projection) in weights
        else:
            assert name in weights
        assert names.is_router(name) == (".router." in name)
        assert names.experts_layer(name) == (expert[0] if expert else None)
        if block := names.block_of(name):
            assert name.startswith(f"{names.block_path(*block)}.")


def test_files_of_a_bundle_are_where_their_names_say(export):
    (variant,) = export.manifest.variants.values()
    folder = Path(names.variant_folder(variant.precision))
    expected = {
        names.MANIFEST,
        names.VOCABULARIES[0],
        f"{names.TOKENIZER}/{names.TOKENIZER_CONFIG}",
        names.weights_file(variant.precision),
        *((folder / names.graph_name(variant.form, role)).as_posix() for role in ("encoder", "decoder")),
    }
    if variant.form == "portable":
        expected.add((folder / names.step_name(variant.form)).as_posix())
    found = {path.relative_to(export.folder).as_posix() for path in export.folder.rglob("*") if path.is_file()}
    assert found == expected


def test_names_of_plans():
    assert names.plan_folder("tensorrt-rtx", "8.9", "portable-float32") == "engines/tensorrt-rtx-sm89/portable-float32"
    assert [names.plan_name(role) for role in ("encoder", "decoder")] == ["encoder.plan", "decoder.plan"]


def test_no_name_is_another_in_disguise():
    """What is looked for by a part of its name is found in no other."""
    layer = names.sparse_layer("decoder", 11)
    assert layer == "decoder.block.11.layer.2.mlp"
    assert re.fullmatch(r"/decoder/block\.11/layer\.2/mlp/ArgMax:0", names.expert_choice(layer))
    assert names.expert_of(names.expert_weight(layer, 12, "wi_0")) == (layer, 12, "wi_0")
    assert names.expert_of(names.stacked_experts(layer, "wi_0")) is None
    assert names.experts_layer(names.stacked_experts(layer, "wi_0")) == layer
    assert names.is_router(names.router_weight(layer))
    assert names.is_router(names.router_bias(layer))
    assert names.block_of(names.router_weight(layer)) == ("decoder", 11)
    assert names.block_of(names.EMBEDDING) is None
