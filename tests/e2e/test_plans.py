"""Every precision of the demo model, of a gated and of an all-sparse checkpoint becomes plans for three kinds of GPU.

In the fast run each precision and each model becomes plans once, for one kind of GPU; in the slow one all do for all.
TensorRT-RTX builds ahead of time, so this needs no GPU; nothing here runs a plan.
"""

import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest

from places import EXAMPLES
from plans import build, pointsman_export
from pointsman.bundle import ROLES, Architecture, Manifest, Precision, Role, read_manifest, sha256_of, verify_files
from pointsman_calib import Corpus, CoverageRule, Limits, quantize
from pointsman_export.bundle import export_bundle

SAMPLE = EXAMPLES / "data" / "c4-sample-train.json.gz"
CAPABILITIES = ("8.6", "8.9", "12.0")
MODELS = ("demo", "gated", "all-sparse")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16", "int8-qdq")
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8-qdq": 1}
# The demo's float32 and int8-qdq, which a command of the README builds, are the other two.
FAST = (("gated", "bfloat16"), ("gated", "int8-qdq"), ("all-sparse", "float16"))


@pytest.fixture(scope="module")
def portable(exports, demo, tmp_path_factory):
    """Gives a portable bundle of a model: `portable("demo", "float16")`; that of float32 serves for INT8 too."""
    made = {"float32": demo / "build" / "demo"}

    def bundle(model, precision) -> Path:
        dtype = "float32" if precision == "int8-qdq" else precision
        if model != "demo":
            return exports(model, "portable", dtype=dtype).folder
        if dtype not in made:
            made[dtype] = tmp_path_factory.mktemp("demo") / dtype
            export_bundle(EXAMPLES / "demo_model", made[dtype], forms=["portable"], dtype=dtype)
        return made[dtype]

    return bundle


def add_int8(bundle: Path) -> None:
    """To ranges of little text: whether they are good ones does not matter to a builder."""
    corpus = Corpus.read(bundle, [SAMPLE], documents=4, window=64, too_long="cut")
    limits = Limits(max_loss_increase=1000, min_agreement=0)
    quantize(bundle, "int8-qdq", corpus=corpus, coverage=CoverageRule(), limits=limits)


def build_variant(source: Path, folder: Path, precision: Precision, *capabilities: str) -> Manifest:
    """Copy a bundle, quantize the copy where the precision asks for it, and build the variant's plans."""
    bundle = Path(shutil.copytree(source, folder))
    if precision == "int8-qdq":
        add_int8(bundle)
    return build(bundle, "--variant", f"portable-{precision}", "--compute-capability", *capabilities)


def check_plans(bundle: Path, manifest: Manifest, precision: Precision, capabilities: Sequence[str]) -> None:
    """All plans of a variant are there, as recorded, up to date, and as large as the weights that they hold."""
    name = f"portable-{precision}"
    plans = [plan for plan in manifest.engines if plan.variant == name]
    wanted = [("tensorrt-rtx", *each) for each in product(capabilities, [name], ROLES)]
    assert sorted(plan.key for plan in plans) == sorted(wanted)
    assert all(manifest.is_current(plan) for plan in plans)
    verify_files(bundle, tuple(plan.file for plan in plans))
    for plan in plans:
        assert plan.file.bytes > expert_weights(manifest.architecture, plan.role) * ITEM_BYTES[precision]


def expert_weights(a: Architecture, role: Role) -> int:
    """How many a stack's experts have; they stay in the variant's own type."""
    stack = a.encoder if role == "encoder" else a.decoder
    return len(stack.sparse_layers) * a.num_experts * (3 if a.gated else 2) * a.d_model * a.d_ff


@pytest.mark.parametrize(("model", "precision"), FAST)
def test_plans_for_one_kind_of_gpu(portable, tmp_path, model, precision):
    manifest = build_variant(portable(model, precision), tmp_path / "bundle", precision, "8.9")
    check_plans(tmp_path / "bundle", manifest, precision, ["8.9"])


@pytest.mark.parametrize("precision", ["float32", "int8-qdq"])
def test_the_demos_plans(planned, precision):
    bundle = planned / "build" / "demo"
    check_plans(bundle, read_manifest(bundle), precision, ["8.9"])


def test_the_fast_run_has_every_model_and_precision():
    built = {("demo", "float32"), ("demo", "int8-qdq"), *FAST}
    assert {model for model, _ in built} == set(MODELS)
    assert {precision for _, precision in built} == set(PRECISIONS)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
def test_plans_for_three_kinds_of_gpu(portable, tmp_path, model, precision):
    manifest = build_variant(portable(model, precision), tmp_path / "bundle", precision, *CAPABILITIES)
    check_plans(tmp_path / "bundle", manifest, precision, CAPABILITIES)


def test_checkpoints_of_one_shape_have_the_same_graphs(exports, tmp_path):
    """What `refit` relies on. The second is exported by another process, so that nothing is shared."""
    first = exports("tied", "portable")
    done = pointsman_export("bundle", exports.checkpoint("sharded"), "-o", tmp_path / "b", "--form", "portable")
    assert done.returncode == 0, done.stderr
    (variant,) = read_manifest(tmp_path / "b").variants.values()
    (ours,) = first.manifest.variants.values()
    for role in ROLES:
        (graph, weights), (our_graph, our_weights) = variant.sources(role), ours.sources(role)
        assert sha256_of(tmp_path / "b" / graph.path) == our_graph.sha256
        assert weights.sha256 != our_weights.sha256
