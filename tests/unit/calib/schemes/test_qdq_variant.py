"""The `int8-qdq` variant of a tiny bundle: what is written, that it runs, and the sentences for what cannot be done."""

import json
import shutil
from dataclasses import replace
from hashlib import sha256

import numpy as np
import onnx_ir as ir
import pytest
from text import LIMITLESS, Interrupted, corpus, random_examples

from pointsman.bundle import SCHEMA, names, read_manifest, verify_files
from pointsman.errors import BundleError
from pointsman.model import SwitchModel
from pointsman_calib import CoverageRule, Limits, quantize
from pointsman_calib.cli.main import main
from pointsman_calib.graphs.runs import graph_files
from pointsman_calib.ranges.corpus_pass import collect_ranges
from pointsman_calib.ranges.table import read_range_table, write_range_table
from pointsman_calib.schemes.qdq import SOURCE
from pointsman_calib.schemes.qdq.draft import QdqDraft
from pointsman_calib.settle import Kept
from tolerances import Q_DQ, W8A8_LOGITS

DOCUMENTS = random_examples(7, [(20, 9)] * 8)
NAME = "portable-int8-qdq"
ANY_COVERAGE, REACHED = CoverageRule(), CoverageRule(fewest_tokens=3)
TEXT = ("--corpus", "TEXT", "--window", "64")  # the tiny vocabulary has sentinels for no more


@pytest.fixture(scope="module")
def quantized(exports, tmp_path_factory):
    """A bundle with the variant."""
    folder = tmp_path_factory.mktemp("qdq") / "bundle"
    shutil.copytree(exports("tied", "portable").folder, folder)
    quantize(folder, "int8-qdq", corpus=corpus(DOCUMENTS), limits=LIMITLESS, coverage=REACHED)
    return folder


@pytest.fixture
def bundle(exports, tmp_path):
    """A bundle without it."""
    return shutil.copytree(exports("tied", "portable").folder, tmp_path / "bundle")


def contents(folder):
    return {path: sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_the_manifest_says_what_was_done(quantized):
    manifest = read_manifest(quantized)
    verify_files(quantized, manifest.files())
    source, variant = manifest.variants[SOURCE], manifest.variants[NAME]
    assert variant.precision == "int8-qdq"
    assert (variant.encoder.inputs, variant.encoder.outputs) == (source.encoder.inputs, source.encoder.outputs)
    assert (variant.decoder.inputs, variant.decoder.outputs) == (source.decoder.inputs, source.decoder.outputs)
    assert variant.parity == source.parity
    record = variant.quantization
    assert record.formats["encoder.block.1.layer.1.mlp.experts.wi"] == "int8 by expert and column"
    assert record.formats["shared.weight"] == "int8 by row"
    assert record.kept == tuple(
        f"{stack}.block.{block}.layer.{layer}.mlp.router.classifier.weight"
        for stack, layer in (("decoder", 2), ("encoder", 1))
        for block in (1, 3)
    )
    assert len(record.calibration.documents) == len(DOCUMENTS)
    assert record.activations.method == "mse"
    thin = {layer: tuple(np.flatnonzero(np.less(given, 3))) for layer, given in record.coverage.tokens.items()}
    assert (record.coverage.fewest_tokens, record.coverage.thin) == (3, thin)
    assert sum(record.coverage.tokens["encoder.block.1.layer.1.mlp"]) == 20 * len(DOCUMENTS)


def test_only_norms_routers_and_biases_stay_in_float(quantized):
    manifest = read_manifest(quantized)
    for graph in (manifest.variants[NAME].encoder, manifest.variants[NAME].decoder):
        kept = [
            tensor
            for value in ir.load(quantized / graph.file).graph.initializers.values()
            if isinstance(tensor := value.const_value, ir.ExternalTensor) and tensor.dtype == ir.DataType.FLOAT
        ]
        assert all(
            tensor.name.endswith(".scales") or any(part in tensor.name for part in ("norm", "router", "relative"))
            for tensor in kept
        )


def logits(bundle, variant):
    """Also of files that were written anew since the manifest was."""
    ids, targets = [[5, 40, 17, 90, 1], [8, 9, 1]], [[0, 4, 60, 33], [0, 7, 19, 2]]
    model = SwitchModel.load(bundle, device="cpu", variant=variant, threads=1, verify=False)
    return model.encode(ids, rows=2).step(np.array(targets), np.arange(2))


def test_it_runs_on_onnx_runtime(quantized):
    exact, rounded = (logits(quantized, name) for name in (SOURCE, NAME))
    W8A8_LOGITS.check(rounded, exact)
    assert not np.array_equal(rounded, exact)


def test_a_gate_takes_the_factors_and_a_separate_head_its_own_scales(exports, tmp_path):
    bundle = shutil.copytree(exports("gated", "portable").folder, tmp_path / "bundle")
    initializers, ranges = [], collect_ranges(bundle, read_manifest(bundle), corpus(DOCUMENTS))
    for fewest in (3, 10**9):  # experts with ranges of their own, and without
        coverage = CoverageRule(fewest_tokens=fewest)
        variant = quantize(bundle, "int8-qdq", ranges=ranges, coverage=coverage, force=True)
        graph = ir.load(bundle / variant.encoder.file).graph
        initializers.append({name: value.const_value.numpy().copy() for name, value in graph.initializers.items()})
    own, layers = initializers
    assert variant.quantization.formats["lm_head.weight"] == "int8 by column"
    changes = {}
    for projection in ("wi_0", "wi_1", "wo"):
        name = f"encoder.block.1.layer.1.mlp.experts.{projection}"
        assert np.array_equal(own[f"{name}.codes"], layers[f"{name}.codes"])
        changes[projection] = (own[f"{name}.scales"] / layers[f"{name}.scales"])[:, 0, 0]
    assert (changes["wi_0"] == 1).all()
    assert (changes["wo"] != 1).any()
    assert changes["wi_1"] * changes["wo"] == pytest.approx(1)


@pytest.mark.parametrize("calibration", ["table", pytest.param("corpus", marks=pytest.mark.slow)])
def test_the_same_text_gives_the_same_bytes_with_and_without_a_table(quantized, bundle, calibration):
    place = quantized / names.variant_folder("int8-qdq")
    first = read_manifest(quantized).variants[NAME]
    if calibration == "table":
        judged = None  # a table is no text to judge by
        quantize(bundle, "int8-qdq", ranges=place / names.RANGES, coverage=REACHED)
    else:
        judged = first.quantization.sensitivity
        quantize(bundle, "int8-qdq", corpus=corpus(DOCUMENTS), limits=LIMITLESS, coverage=REACHED)
    again = contents(bundle / names.variant_folder("int8-qdq"))
    assert {path.name: digest for path, digest in again.items()} == {
        path.name: digest for path, digest in contents(place).items()
    }
    second = read_manifest(bundle).variants[NAME]
    assert second == replace(first, quantization=replace(first.quantization, sensitivity=judged))


def float_inputs(bundle):
    """Names of the quantized weights that a variant's products multiply with inputs that stay in float."""
    found = set()
    for graph in (read_manifest(bundle).variants[NAME].graph(role) for role in ("encoder", "decoder")):
        for node in ir.load(bundle / graph.file).graph:
            weight = node.inputs[1].producer() if node.op_type in ("MatMul", "Gemm") else None
            if weight is not None and weight.op_type == "Gather":
                weight = weight.inputs[0].producer()
            if weight is not None and weight.op_type == "DequantizeLinear":
                inputs = node.inputs[0].producer()
                if inputs is None or inputs.op_type != "DequantizeLinear":
                    found.add(weight.inputs[0].name.removesuffix(".codes"))
    return found


@pytest.mark.slow  # several calibrations; how layers are chosen is `test_search.py`'s
def test_what_costs_most_is_kept_in_float_until_the_limits_hold(bundle):
    limits = Limits(max_loss_increase=1000, min_agreement=80)
    record = quantize(bundle, "int8-qdq", corpus=corpus(DOCUMENTS), coverage=REACHED, limits=limits).quantization
    sensitivity = record.sensitivity
    assert sensitivity.nearest.agreement < 0.8 <= sensitivity.reached.agreement
    assert float_inputs(bundle) == set(sensitivity.fine_inputs)
    assert sensitivity.float_weights
    assert set(record.kept) >= set(sensitivity.float_weights)
    assert not record.formats.keys() & set(sensitivity.float_weights)
    verify_files(bundle, read_manifest(bundle).variants[NAME].files)
    assert np.isfinite(logits(bundle, NAME)).all()


def test_a_draft_keeps_what_it_is_asked_to(quantized, bundle):
    """Inputs that are kept stay in float32 and weights do not; weights that are kept bring the float logits back."""
    manifest, place = read_manifest(quantized), bundle / names.variant_folder("int8-qdq")
    table = read_range_table(quantized / names.variant_folder("int8-qdq") / names.RANGES)
    shutil.rmtree(bundle)
    shutil.copytree(quantized, bundle)
    exact, rounded = (logits(bundle, name) for name in (SOURCE, NAME))
    coverage = manifest.variants[NAME].quantization.coverage
    graphs = graph_files(bundle, manifest.variants[SOURCE])
    draft = QdqDraft(graphs, table, manifest.architecture, coverage, "mse", place, None)
    every = frozenset(draft.quantizable)
    draft.write(Kept(inputs=every))
    assert float_inputs(bundle) == {product.weight for product in draft.products}
    assert 0 < np.abs(logits(bundle, NAME) - exact).mean() < np.abs(rounded - exact).mean()
    draft.write(Kept(weights=every))
    assert float_inputs(bundle) == set()
    Q_DQ.check(logits(bundle, NAME), exact)
    draft.write(Kept())
    np.testing.assert_array_equal(logits(bundle, NAME), rounded)


def test_an_interrupt_leaves_the_bundle_as_it_was(bundle):
    before = contents(bundle)
    with pytest.raises(KeyboardInterrupt):
        quantize(bundle, "int8-qdq", corpus=corpus(Interrupted(DOCUMENTS, 3)), coverage=ANY_COVERAGE)
    assert contents(bundle) == before
    assert not list(bundle.glob("variants/.*"))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A corpus in C4's form, in the words of the tiny vocabulary."""
    path = tmp_path_factory.mktemp("text") / "c4.json"
    sentences = ("The pointsman waits by the box.", "A driver sits under the bridge, and later the engine leaves.")
    path.write_text("".join(json.dumps({"text": sentence}) + "\n" for sentence in sentences))
    return path


def test_the_commands_observe_and_quantize(bundle, text, tmp_path, capsys):
    table = tmp_path / "ranges.json"
    assert main(["ranges", str(bundle), "--corpus", str(text), "--window", "64", "-o", str(table)]) == 0
    assert "ranges on 2 documents, 0 tokens or more for each of 32 experts" in capsys.readouterr().out
    options = ["--scheme", "int8-qdq", "--ranges", str(table), "--range-method", "minmax"]
    assert main(["quantize", str(bundle), *options, "--min-expert-tokens", "1"]) == 0
    assert capsys.readouterr().out.startswith(f"{NAME}: ")
    assert read_manifest(bundle).variants[NAME].quantization.activations.method == "minmax"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "int8-qdq needs ranges of activations: give either a corpus or a table of ranges"),
        ([*TEXT, "--ranges", "TABLE"], "int8-qdq needs ranges of activations: give either a corpus or"),
        (["--ranges", "ABSENT"], "cannot read the range table ABSENT (No such file or directory); make one with"),
        (["--ranges", "TABLE"], "the range table was measured on another portable-float32 than this bundle's"),
        ([*TEXT], "of 32 experts were given fewer than 64 tokens, and at most 50% may be: "),
        ([*TEXT, "--max-thin-experts", "2"], "the share of thin experts is 2; give 0 to 1"),
        ([*TEXT, "--scheme", "int8", "--range-method", "mse"], "ranges of activations are for int8-qdq"),
    ],
)
def test_mistakes_are_reported_in_a_line_and_change_nothing(
    bundle, quantized, text, tmp_path, capsys, options, sentence
):
    table, absent = tmp_path / "other.json", tmp_path / "absent.json"
    if "TABLE" in options:
        ours = read_range_table(quantized / "variants" / "int8-qdq" / "ranges.json")
        write_range_table(replace(ours, provenance=replace(ours.provenance, variant_sha256="another")), table)
    places = {"TEXT": str(text), "TABLE": str(table), "ABSENT": str(absent)}
    before = contents(bundle)
    arguments = ["quantize", str(bundle), "--scheme", "int8-qdq", *(places.get(option, option) for option in options)]
    assert main(arguments) == 2
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence.replace("ABSENT", str(absent)) in printed
    assert contents(bundle) == before


def test_a_variant_of_before_is_refused_by_name(quantized, bundle):
    """Its record of coverage was in another place: the bundle is made again, and its variants with it."""
    document = json.loads((quantized / names.MANIFEST).read_text())
    quantization = document["variants"][NAME]["quantization"]
    coverage, quantization["coverage"] = quantization["coverage"], None
    quantization["activations"] |= {
        "fewest_tokens": 3,
        "coverage": coverage["tokens"],
        "thin_experts": coverage["thin"],
    }
    del document["sha256"]
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["sha256"] = sha256(canonical.encode("ascii")).hexdigest()
    (bundle / names.MANIFEST).write_text(json.dumps(document))
    with pytest.raises(BundleError) as raised:
        read_manifest(bundle)
    place = f"variants.{NAME}.quantization.activations"
    assert str(raised.value) == (
        f"{bundle / names.MANIFEST} is not a manifest of schema {SCHEMA}: {place}.coverage is unknown; "
        f"{place}.fewest_tokens is unknown; {place}.thin_experts is unknown; "
        "export the bundle again, and quantize it again"
    )


def test_a_variant_that_is_there_is_not_replaced(quantized, text, capsys):
    before = contents(quantized)
    assert main(["quantize", str(quantized), "--scheme", "int8-qdq", "--corpus", str(text), "--window", "64"]) == 2
    assert capsys.readouterr().err.strip().endswith(f"has a {NAME} variant already; replace it with --force")
    assert contents(quantized) == before
