"""Weight-only variants of a small bundle: what they compute, what they are made of, and how they come to be."""

import math
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest

from calibration_text import random_corpus
from conftest import installed
from pointsman.bundle import Architecture, Stack, read_manifest, verify_files
from pointsman.errors import OptionsError
from pointsman.model import SwitchModel
from pointsman_calib.corpus.coverage import CoverageRule
from pointsman_calib.graphs.runs import PiecewiseRun, graph_files
from pointsman_calib.quantize import quantize_bundle
from pointsman_calib.rounding import round_blocks
from pointsman_calib.schemes.weight_only.draft import Draft
from pointsman_calib.schemes.weight_only.formats import block_format
from pointsman_calib.schemes.weight_only.graphs import Weight
from pointsman_calib.settle import Limits, Spared, score
from pointsman_export.architecture import expected_tensors

CORPUS = random_corpus(24)
LENIENT = Limits(max_loss_increase=100, min_agreement=0)
PERFECT = Limits(max_loss_increase=0, min_agreement=100)
REACHED = CoverageRule(fewest_tokens=5)
SOURCE = "fused-float32"


@pytest.fixture(scope="module")
def bundle(tiny_bundle, tmp_path_factory) -> Path:
    """The small bundle with `fused-int8` rounded to nearest, and `fused-int4` for a text, held to nothing."""
    copy = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("quantized") / "bundle")
    quantize_bundle(copy, "int8")
    quantize_bundle(copy, "int4", corpus=CORPUS, limits=LENIENT, coverage=REACHED)
    return copy


def graphs_of(folder: Path, name: str):
    variant = read_manifest(folder).variants[name]
    return graph_files(folder, variant), variant


def run_of(folder: Path, name: str) -> PiecewiseRun:
    graphs, variant = graphs_of(folder, name)
    return PiecewiseRun(graphs, variant, lambda: CORPUS.batches(read_manifest(folder).architecture))


def scores_of(folder: Path, name: str):
    return score(run_of(folder, name))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("scheme", "agreement"), [("int8", 0.5), ("int4", 0.2)])
def test_it_says_what_the_float_variant_says(bundle, scheme, agreement):
    exact, quantized = scores_of(bundle, SOURCE), scores_of(bundle, f"fused-{scheme}")
    assert quantized.agreement_with(exact) >= agreement  # small random networks amplify whatever is rounded
    assert abs(quantized.increase_over(exact)) < 0.2
    assert quantized.deviation_from(exact) > 0


def test_int8_routes_as_the_float_variant(bundle):
    runs = [run_of(bundle, name) for name in (SOURCE, "fused-int8")]
    routers = {
        role: [node.outputs[0].name for node in pieces.graph if node.op_type == "ArgMax"]
        for role, pieces in runs[0].graphs.items()
    }
    assert all(len(names) == 2 for names in routers.values())
    same = total = 0
    for (_, _, ours), (_, _, theirs) in zip(*(run.values(routers) for run in runs), strict=True):
        for name, chosen in ours.items():
            same, total = same + (chosen == theirs[name]).sum(), total + chosen.size
    assert same / total >= 0.8  # the demo model is held to 99.5 %


def test_it_generates(bundle):
    for name in ("fused-int8", "fused-int4"):
        ((generation,),) = SwitchModel.load(bundle, device="cpu", variant=name).generate([[5, 9, 11, 1]])
        assert generation.token_ids


def test_what_stays_in_float(bundle):
    graphs, variant = graphs_of(bundle, "fused-int8")
    quantization = variant.quantization
    assert quantization.kept == ()
    assert not any("router" in name or "layer_norm" in name for name in quantization.formats)
    float_weights = {
        name
        for path in graphs.values()
        for name, value in ir.load(path).graph.initializers.items()
        if value.dtype == ir.DataType.FLOAT and not name.endswith(".scales") and not name.startswith("constant.")
    }
    assert all(
        part in name for name in float_weights for part in [next(p for p in ("router", "norm", "bias") if p in name)]
    )


def test_the_manifest_says_what_was_looked_at(bundle):
    variants = read_manifest(bundle).variants
    nearest, calibrated = (variants[f"fused-{scheme}"].quantization for scheme in ("int8", "int4"))
    assert (nearest.rounding, nearest.calibration, nearest.coverage, nearest.sensitivity) == ("nearest", *[None] * 3)
    assert calibrated.rounding == "GPTQ"
    assert set(calibrated.calibration.documents) == {example.document_sha256 for example in CORPUS.examples}
    tokens = sum(example.inputs.size for example in CORPUS.examples)
    encoder = {layer: seen for layer, seen in calibrated.coverage.tokens.items() if layer.startswith("encoder")}
    assert [sum(seen) for seen in encoder.values()] == [tokens] * 2
    assert calibrated.sensitivity.labels == sum(example.targets.size for example in CORPUS.examples)
    assert calibrated.sensitivity.fine_inputs == calibrated.sensitivity.float_weights == ()
    exact, quantized = scores_of(bundle, SOURCE), scores_of(bundle, "fused-int4")
    assert calibrated.sensitivity.loss == exact.loss
    assert calibrated.sensitivity.nearest != calibrated.sensitivity.reached
    assert calibrated.sensitivity.reached.agreement == quantized.agreement_with(exact)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_the_same_text_gives_the_same_bytes(bundle, tmp_path, scheme):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    before, manifest = contents(copy / "variants"), read_manifest(copy)
    calibration = {"corpus": CORPUS, "limits": LENIENT, "coverage": REACHED} if scheme == "int4" else {}
    quantize_bundle(copy, scheme, **calibration, force=True)
    assert contents(copy / "variants") == before
    assert read_manifest(copy) == manifest


def test_limits_that_nothing_but_float_holds(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    before = contents(copy)
    with pytest.raises(OptionsError, match=r"^no layer can be quantized within these limits; loosen --max-"):
        quantize_bundle(copy, "int4", corpus=CORPUS, limits=PERFECT, coverage=REACHED, force=True)
    assert contents(copy) == before


def test_a_draft_spares_what_it_is_told(tiny_bundle, tmp_path):
    """Inputs in two parts bring int8 nearer to float, and a weight left out is the float one."""
    graphs, variant = graphs_of(tiny_bundle, SOURCE)
    draft = Draft(graphs, "int8", tmp_path)
    draft.round(lambda _, weight, form: round_blocks(weight, form))
    batches = list(CORPUS.batches(read_manifest(tiny_bundle).architecture))
    exact = scores_of(tiny_bundle, SOURCE)

    def deviation(spared):
        draft.write(spared)
        return score(PiecewiseRun(draft.graphs, variant, lambda: batches)).deviation_from(exact)

    names = frozenset(draft.formats)
    nothing, inputs = deviation(Spared()), deviation(Spared(inputs=names))
    assert 0 < inputs < nothing
    assert deviation(Spared(weights=names)) < 1e-5
    assert deviation(Spared()) == nothing
    draft.close()
    assert not (tmp_path / "rounded.bin").exists()


def test_products_of_the_same_inputs_share_their_parts(tiny_bundle, tmp_path):
    draft = Draft(graphs_of(tiny_bundle, SOURCE)[0], "int8", tmp_path)
    draft.round(lambda _, weight, form: round_blocks(weight, form))
    draft.write(Spared(inputs=frozenset(draft.formats)))
    attention = "encoder.block.0.layer.0.SelfAttention"
    parts = {
        node.inputs[1].name.removesuffix(".weight.codes"): node.inputs[0].producer()
        for node in ir.load(draft.graphs["encoder"]).graph
        if node.op_type == "MatMulNBits"
    }
    query, key, value, output = (parts[f"{attention}.{name}"] for name in "qkvo")
    assert query.op_type == output.op_type == "Concat"
    assert query is key is value is not output


def test_routes_are_mended_by_layers_of_their_own(bundle, tmp_path):
    """All labels may change: what is spared is spared for tokens that went to other experts."""
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    before = read_manifest(copy).variants["fused-int4"].quantization.sensitivity
    assert before.rerouted == {}
    least = 50 * (1 + before.reached.expert_agreement)
    limits = Limits(max_loss_increase=100, min_agreement=0, min_expert_agreement=least)
    quantization = quantize_bundle(
        copy, "int4", corpus=CORPUS, limits=limits, coverage=REACHED, force=True
    ).quantization
    after = quantization.sensitivity
    assert before.reached.expert_agreement < least / 100 <= after.reached.expert_agreement
    assert after.nearest == before.nearest
    assert after.rerouted.keys() == after.costs.keys()
    assert list(after.rerouted.values()) == sorted(after.rerouted.values(), reverse=True)
    assert any(name.startswith(next(iter(after.rerouted))) for name in (*after.fine_inputs, *after.float_weights))
    layers = {"shared.weight"} | {f"{side}.block.{n}" for side in ("encoder", "decoder") for n in range(4)}
    assert after.costs.keys() == layers
    assert list(after.costs.values()) == sorted(after.costs.values(), reverse=True)
    assert set(after.float_weights) == set(quantization.kept)
    assert not set(after.float_weights) & quantization.formats.keys()
    assert not set(after.fine_inputs) - quantization.formats.keys()
    assert {path.name for path in (copy / "variants/int4").iterdir()} == {
        "weights.bin",
        "fused.encoder.onnx",
        "fused.decoder.onnx",
    }
    verify_files(copy, read_manifest(copy).files())


def test_what_is_looked_up_comes_in_small_blocks():
    head = Weight("lm_head.weight", 768, 32128, transposed=True, gathered=False)
    assert block_format(head, "int4").block_size == 128
    assert block_format(replace(head, name="shared.weight", gathered=True), "int4").block_size == 32


def base_8() -> Architecture:
    stack = Stack(layers=12, sparse_layers=tuple(range(1, 12, 2)))
    return Architecture(
        vocab_size=32128,
        d_model=768,
        d_kv=64,
        d_ff=3072,
        num_heads=12,
        num_experts=8,
        encoder=stack,
        decoder=stack,
        gated=False,
        activation="relu",
        router_bias=False,
        tied_head=True,
        relative_buckets=32,
        relative_max_distance=128,
        layer_norm_epsilon=1e-6,
        expert_capacity=64,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )


@pytest.mark.parametrize(("scheme", "largest"), [("int8", 0.27), ("int4", 0.16)])
def test_size_of_base_8(scheme, largest):
    exact = quantized = 0
    for name, shape in expected_tensors(base_8()).items():
        size = math.prod(shape)
        exact += 4 * size
        quantized += 4 * size if len(shape) == 1 or "router" in name or "bias" in name else rounded(name, shape, scheme)
    assert quantized / exact <= largest


def rounded(name: str, shape: tuple[int, ...], scheme) -> int:
    """Bytes of codes and scales; checkpoints store weights as [out, inputs]."""
    out, inputs = shape
    tied = name == "shared.weight"
    form = block_format(Weight(name, inputs, out, transposed=tied, gathered=tied), scheme)
    return out * math.ceil(inputs / form.block_size) * (form.block_size * form.bits // 8 + 4)


# The process sends itself a signal when it has written its last file and not yet put the folder in its place.
KILL = """
import os, signal, sys
from pointsman_calib import quantize
from pointsman_calib.cli.main import main
def killed(*arguments):
    os.kill(os.getpid(), getattr(signal, sys.argv[-1]))
quantize._update = killed
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell inherit that it is ignored
sys.exit(main(sys.argv[1:-1]))
"""


@pytest.mark.parametrize(("how", "code"), [("SIGKILL", -signal.SIGKILL), ("SIGTERM", 130), ("SIGINT", 130)])
def test_killed_in_the_middle(tiny_bundle, tmp_path, how, code):
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    before = contents(copy)
    done = subprocess.run(
        [sys.executable, "-c", KILL, "quantize", str(copy), "--scheme", "int8", how],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    if code == 130:
        assert done.stderr.splitlines()[-1] == "pointsman-calib: interrupted; the bundle is as it was"
        assert contents(copy) == before
    assert read_manifest(copy).variants.keys() == {SOURCE}
    SwitchModel.load(copy, device="cpu")
    again = subprocess.run(
        [installed("pointsman-calib"), "quantize", copy, "--scheme", "int8"], capture_output=True, check=False
    )
    assert again.returncode == 0
    assert not list((copy / "variants").glob(".*"))
    verify_files(copy, read_manifest(copy).files())


def interrupted(*_arguments):
    raise KeyboardInterrupt


def test_interrupted_before_the_old_variant_has_gone(bundle, tmp_path, monkeypatch):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    before = contents(copy)
    monkeypatch.setattr("pointsman.bundle.writing._swap", interrupted)
    with pytest.raises(KeyboardInterrupt) as raised:
        quantize_bundle(copy, "int4", force=True)
    assert str(raised.value) == ""  # and so the command says that the bundle is as it was
    assert contents(copy) == before


def test_interrupted_when_the_old_variant_has_gone(bundle, tmp_path, monkeypatch):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    monkeypatch.setattr(
        "pointsman.bundle.writing._remove_leftovers", lambda _, kind: kind == "replaced" and interrupted()
    )
    with pytest.raises(KeyboardInterrupt, match=r"^fused-int4 was being put in its place: run the same command again$"):
        quantize_bundle(copy, "int4", force=True)
    manifest = read_manifest(copy)
    assert manifest.variants.keys() == {SOURCE, "fused-int8"}
    verify_files(copy, manifest.files())
