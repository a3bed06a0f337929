"""Weight-only variants of a small bundle: what they compute, what they are made of, and what is said of them."""

import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from codes import dequantized
from text import corpus, random_examples

from architectures import BASE_8
from pointsman.bundle import names, read_manifest, verify_files
from pointsman.errors import BundleError
from pointsman.model import SwitchModel
from pointsman_calib import CoverageRule, Limits, quantize
from pointsman_calib.graphs.external_data import in_file_order
from pointsman_calib.graphs.runs import PiecewiseRun, graph_files
from pointsman_calib.rounding import round_blocks
from pointsman_calib.schemes.weight_only import graphs, variant
from pointsman_calib.schemes.weight_only.draft import WeightOnlyDraft
from pointsman_calib.schemes.weight_only.formats import formats_of
from pointsman_calib.schemes.weight_only.graphs import Weight
from pointsman_calib.settle import Kept, score
from pointsman_export.architecture import expected_tensors
from tolerances import SAME_CODES

CORPUS = corpus(random_examples(0, [(20, 10)] * 24))
SOURCE = "fused-float32"


def graphs_of(folder: Path, name: str):
    variant = read_manifest(folder).variants[name]
    return graph_files(folder, variant), variant


def scores_of(folder: Path, graphs, text=CORPUS):
    """Of graphs with the interface of the bundle's float variant."""
    manifest = read_manifest(folder)
    return score(PiecewiseRun(graphs, manifest.variants[SOURCE], lambda: text.batches(manifest.architecture)))


@pytest.fixture(scope="module")
def exact(tiny_bundle):
    return scores_of(tiny_bundle, graphs_of(tiny_bundle, SOURCE)[0])


@pytest.fixture(scope="module", params=["int8", "int4"])
def rounded(request, tiny_bundle, tmp_path_factory):
    """A draft, rounded to nearest, and what its codes stand for."""
    draft = WeightOnlyDraft(graphs_of(tiny_bundle, SOURCE)[0], request.param, tmp_path_factory.mktemp(request.param))
    codes = {}
    draft.round(lambda name: lambda weight, form: codes.setdefault(name, round_blocks(weight, form)))
    return draft, codes


def spelled_out(draft, codes, folder: Path):
    """The float graphs with the weights that codes stand for."""
    twin = shutil.copytree(draft.source["encoder"].parent, folder)
    with (twin / names.WEIGHTS).open("r+b") as file:
        for name, tensor in in_file_order(draft.models().values()):
            if name in codes:
                weight = dequantized(codes[name])
                file.seek(tensor.offset)
                file.write(np.ascontiguousarray(weight.T if draft.weights[name].transposed else weight).tobytes())
    return {role: twin / path.name for role, path in draft.source.items()}


def test_codes_lie_in_the_graph_of_their_product(rounded):
    """The engine lays weights out for products of their own graph; of one above it, not always, and is slow then."""
    draft, _ = rounded
    draft.write(Kept())
    for path in draft.place.glob("*.onnx"):
        products = [
            node
            for node in ir.traversal.RecursiveGraphIterator(ir.load(path).graph)
            if node.op_type in {"MatMulNBits", "MatMulIntegerToFloat"}
        ]
        assert {node.op_type for node in products} >= {"MatMulIntegerToFloat"}
        assert all(node.inputs[1].name in node.graph.initializers for node in products)


def test_it_computes_what_its_codes_stand_for(tiny_bundle, rounded, exact, tmp_path):
    """With inputs as fine as they come; coarser ones cost more, and codes are not the float weights."""
    draft, codes = rounded
    meant = scores_of(tiny_bundle, spelled_out(draft, codes, tmp_path / "twin"))
    found = {}
    for inputs in (frozenset(draft.formats), frozenset[str]()):
        draft.write(Kept(inputs=inputs))
        found[bool(inputs)] = scores_of(tiny_bundle, draft.graphs)
    SAME_CODES.check(found[True].agreement_with(meant), 1.0)
    SAME_CODES.check(found[True].rerouted_from(meant), 0.0)
    assert 0 < found[True].deviation_from(meant) < found[False].deviation_from(meant) / 2
    assert meant.deviation_from(exact) > found[True].deviation_from(meant)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_weights_that_are_rounded_at_once_lie_in_the_same_file(tiny_bundle, tmp_path, monkeypatch, scheme):
    asked, written = [], set()
    for most in (1, 3):
        monkeypatch.setattr(graphs, "suitable", lambda most=most: most)
        place = tmp_path / str(most)
        place.mkdir()
        draft = WeightOnlyDraft(graphs_of(tiny_bundle, SOURCE)[0], scheme, place)
        names_asked = []
        draft.round(lambda name, to=names_asked: to.append(name) or round_blocks)
        order = draft.order
        asked.append([name for name in names_asked if name in order])
        draft.write(Kept(weights=frozenset(order[:2])))
        written.add(draft.sha256)
    assert asked[0] == asked[1] != []
    assert len(written) == 1


def test_processes_round_what_this_one_does(tiny_bundle, tmp_path, monkeypatch):
    """For a corpus; matrices here are so small that products are of one thread in any case."""
    written = set()
    for count in (1, 2):
        for module in (graphs, variant):
            monkeypatch.setattr(module, "suitable", lambda count=count: count)
        bundle = shutil.copytree(tiny_bundle, tmp_path / str(count))
        limits, coverage = Limits(max_loss_increase=100, min_agreement=0), CoverageRule(fewest_tokens=5)
        made = quantize(bundle, "int4", corpus=CORPUS, limits=limits, coverage=coverage)
        written.update(file.sha256 for file in made.files if file.path.endswith(names.WEIGHTS))
    assert len(written) == 1


def test_a_weight_that_cannot_be_rounded_ends_it(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "suitable", lambda: 3)
    draft = WeightOnlyDraft(graphs_of(tiny_bundle, SOURCE)[0], "int8", tmp_path)

    def refuse(_weight, _form):
        raise BundleError("it cannot be rounded")

    with pytest.raises(BundleError, match="it cannot be rounded"):
        draft.round(lambda name: refuse if name == draft.order[4] else round_blocks)


def test_a_draft_keeps_what_it_is_asked_to(tiny_bundle, tmp_path, exact):
    """Inputs in two parts bring it nearer to float, and a weight left out is the float one."""
    draft = WeightOnlyDraft(graphs_of(tiny_bundle, SOURCE)[0], "int8", tmp_path)
    draft.round(lambda _name: round_blocks)

    def deviation(kept):
        draft.write(kept)
        return scores_of(tiny_bundle, draft.graphs).deviation_from(exact)

    every = frozenset(draft.formats)
    nothing, inputs = deviation(Kept()), deviation(Kept(inputs=every))
    assert 0 < inputs < nothing
    assert deviation(Kept(weights=every)) < 1e-5
    assert deviation(Kept()) == nothing
    draft.close()
    assert {path.name for path in tmp_path.iterdir()} == {names.WEIGHTS, *(path.name for path in draft.graphs.values())}


def test_products_of_the_same_inputs_share_their_parts(rounded):
    draft, _ = rounded
    draft.write(Kept(inputs=frozenset(draft.formats)))
    attention = "encoder.block.0.layer.0.SelfAttention"
    parts = {
        node.inputs[1].name.removesuffix(".weight.codes"): node.inputs[0].producer()
        for node in ir.load(draft.graphs["encoder"]).graph
        if node.op_type == "MatMulIntegerToFloat"
    }
    query, key, value, output = (parts[f"{attention}.{name}"] for name in "qkvo")
    assert query.op_type == output.op_type == "Concat"
    assert query is key is value is not output


@pytest.mark.parametrize("fine", [False, True])
def test_tokens_are_rounded_once_before_experts_take_theirs(rounded, fine):
    """An expert rounds only what is between its two products; all else is done for all experts at once."""
    draft, _ = rounded
    draft.write(Kept(inputs=frozenset(draft.formats if fine else ())))
    for path in draft.graphs.values():
        graph = ir.load(path).graph
        rounding = Counter(
            node.graph.name
            for node in ir.traversal.RecursiveGraphIterator(graph)
            if node.op_type == "QuantizeLinear" and node.graph is not graph
        )
        if draft.scheme == "int8":
            assert rounding
        assert set(rounding.values()) <= {2 if fine else 1}


def test_every_node_is_read(rounded):
    """ONNX Runtime runs the others as well."""
    draft, _ = rounded
    draft.write(Kept())
    for path in draft.graphs.values():
        for node in ir.traversal.RecursiveGraphIterator(ir.load(path).graph):
            assert any(output.is_graph_output() or output.uses() for output in node.outputs), node.name


def test_integer_weights_are_in_the_graph_of_their_product(rounded):
    """Nowhere else does ONNX Runtime make them unsigned, where products of signed ones would saturate."""
    draft, _ = rounded
    draft.write(Kept())
    for path in draft.graphs.values():
        graph = ir.load(path).graph
        nodes = ir.traversal.RecursiveGraphIterator(graph)
        products = [node for node in nodes if node.op_type == "MatMulIntegerToFloat"]
        assert any(node.graph is not graph for node in products) == (draft.scheme == "int8")  # those of experts
        assert all(node.inputs[1].name in node.graph.initializers for node in products)


def test_it_generates(quantized_bundle):
    for name in ("fused-int8", "fused-int4"):
        ((generation,),) = SwitchModel.load(quantized_bundle, device="cpu", variant=name).generate([[5, 9, 11, 1]])
        assert generation.token_ids


def test_norms_routers_and_biases_stay_in_float_and_nothing_else(quantized_bundle):
    graphs, variant = graphs_of(quantized_bundle, "fused-int8")
    quantization = variant.quantization
    in_file = {name: value.dtype for role in graphs.values() for name, value in in_file_order([ir.load(role)])}
    in_float = {name for name, dtype in in_file.items() if dtype == ir.DataType.FLOAT and not name.endswith("scales")}
    assert any(map(names.is_router, in_float))
    for name in in_float:
        assert names.is_router(name) or name.endswith(("layer_norm.weight", "relative_attention_bias.weight")), name
    codes = {name.rpartition(".")[0] for name in in_file if name.endswith((".codes", ".rows"))}
    assert codes == quantization.formats.keys()
    source = {
        name for name, _ in in_file_order(ir.load(path) for path in graphs_of(quantized_bundle, SOURCE)[0].values())
    }
    assert codes | in_float == source
    assert quantization.kept == ()


def test_the_manifest_says_what_was_looked_at(quantized_bundle, calibration):
    variants = read_manifest(quantized_bundle).variants
    nearest, calibrated = (variants[f"fused-{scheme}"].quantization for scheme in ("int8", "int4"))
    assert (nearest.rounding, nearest.calibration, nearest.coverage, nearest.sensitivity) == ("nearest", *[None] * 3)
    assert calibrated.rounding == "GPTQ"
    assert set(calibrated.calibration.documents) == {example.document_sha256 for example in calibration.examples}
    tokens = sum(example.inputs.size for example in calibration.examples)
    encoder = {layer: seen for layer, seen in calibrated.coverage.tokens.items() if layer.startswith("encoder")}
    assert [sum(seen) for seen in encoder.values()] == [tokens] * 2
    assert calibrated.sensitivity.labels == sum(int(example.span_mask.sum()) for example in calibration.examples)
    assert calibrated.sensitivity.fine_inputs == calibrated.sensitivity.float_weights == ()
    float_scores, quantized = (
        scores_of(quantized_bundle, graphs_of(quantized_bundle, name)[0], calibration)
        for name in (SOURCE, "fused-int4")
    )
    assert calibrated.sensitivity.loss == float_scores.loss
    assert calibrated.sensitivity.nearest != calibrated.sensitivity.reached
    assert calibrated.sensitivity.reached == quantized.fidelity_to(float_scores)


@pytest.mark.slow  # several calibrations; how layers are chosen is `test_search.py`'s
def test_routes_are_mended_by_layers_of_their_own(quantized_bundle, calibration, tmp_path):
    """All labels may change: what is kept in float is kept for tokens that went to other experts."""
    copy = shutil.copytree(quantized_bundle, tmp_path / "bundle")
    before = read_manifest(copy).variants["fused-int4"].quantization.sensitivity
    assert before.rerouted == {}
    least = 50 * (1 + before.reached.expert_agreement)
    limits, coverage = Limits(min_expert_agreement=least), CoverageRule(fewest_tokens=5)
    variant = quantize(copy, "int4", corpus=calibration, limits=limits, coverage=coverage, force=True)
    quantization, after = variant.quantization, variant.quantization.sensitivity
    assert before.reached.expert_agreement < least / 100 <= after.reached.expert_agreement
    assert after.nearest == before.nearest
    layers = {"shared.weight"} | {f"{side}.block.{n}" for side in ("encoder", "decoder") for n in range(4)}
    assert after.rerouted.keys() == after.costs.keys() == layers
    assert any(name.startswith(next(iter(after.rerouted))) for name in (*after.fine_inputs, *after.float_weights))
    assert set(after.float_weights) == set(quantization.kept)
    assert not set(after.float_weights) & quantization.formats.keys()
    assert not set(after.fine_inputs) - quantization.formats.keys()
    assert {path.name for path in (copy / names.variant_folder("int4")).iterdir()} == {
        names.WEIGHTS,
        names.graph_name("fused", "encoder"),
        names.graph_name("fused", "decoder"),
    }
    verify_files(copy, read_manifest(copy).files())


def test_what_is_looked_up_comes_in_small_blocks():
    head = Weight("lm_head.weight", 768, 32128, transposed=True, gathered=False)
    assert str(formats_of(head, "int4")) == "int8 by column"
    assert str(formats_of(replace(head, gathered=True), "int4")) == "int8 by column, int8 in blocks of 32"
    assert str(formats_of(replace(head, gathered=True, multiplied=False), "int4")) == "int8 in blocks of 32"


def test_four_bits_are_for_experts():
    dense = Weight("encoder.block.0.layer.1.mlp.wi.weight", 768, 3072, transposed=False, gathered=False)
    expert = replace(dense, name="encoder.block.1.layer.1.mlp.experts.expert_0.wi.weight")
    assert [str(formats_of(weight, "int4")) for weight in (dense, expert)] == ["int8 by column", "int4 in blocks of 32"]
    assert [str(formats_of(weight, "int8")) for weight in (dense, expert)] == ["int8 by column"] * 2


@pytest.mark.parametrize(("scheme", "largest"), [("int8", 0.265), ("int4", 0.195)])
def test_size_of_base_8(scheme, largest):
    exact = quantized = 0
    for name, shape in expected_tensors(BASE_8).items():
        size = math.prod(shape)
        exact += 4 * size
        quantized += (
            4 * size if len(shape) == 1 or "router" in name or "bias" in name else bytes_of(name, shape, scheme)
        )
    assert quantized / exact <= largest


def bytes_of(name: str, shape: tuple[int, ...], scheme) -> int:
    """Of codes and scales; checkpoints store weights as [out, inputs]."""
    out, inputs = shape
    tied = name == "shared.weight"
    formats = formats_of(Weight(name, inputs, out, transposed=tied, gathered=tied), scheme)
    forms = [form for form in (formats.product, formats.lookup) if form is not None]
    return sum(out * math.ceil(inputs / form.size(inputs)) * (form.size(inputs) * form.bits // 8 + 4) for form in forms)
