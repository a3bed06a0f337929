"""Every precision of the demo model, of a gated and of an all-sparse checkpoint becomes plans for three kinds of GPU.

TensorRT-RTX builds ahead of time, so this needs no GPU; nothing here runs a plan.
"""

import shutil
from pathlib import Path

import pytest

from places import EXAMPLES
from plans import build, pointsman_export
from pointsman.bundle import ROLES, Architecture, Precision, Role, read_manifest, sha256_of, verify_files
from pointsman_calib.corpus.text import Corpus
from pointsman_calib.quantize import quantize_bundle
from pointsman_calib.schemes.qdq import Clipping
from pointsman_calib.settle import Limits
from pointsman_export.bundle import export_bundle

SAMPLE = EXAMPLES / "data" / "c4-sample-train.json.gz"
CAPABILITIES = ("8.6", "8.9", "12.0")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16", "int8-qdq")
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8-qdq": 1}


@pytest.fixture(scope="module")
def portable(exports, tmp_path_factory):
    """Gives a portable bundle of a model: `portable("demo", "float16")`; that of float32 serves for INT8 too."""
    made = {}

    def bundle(model, precision) -> Path:
        dtype = "float32" if precision == "int8-qdq" else precision
        if model != "demo":
            return exports(model, "portable", dtype=dtype).folder
        if dtype not in made:
            made[dtype] = tmp_path_factory.mktemp("demo") / dtype
            export_bundle(EXAMPLES / "demo_model", made[dtype], forms=["portable"], dtype=dtype)
        return made[dtype]

    return bundle


def quantize(bundle: Path) -> None:
    """To ranges of little text: whether they are good ones does not matter to a builder."""
    corpus = Corpus.read(bundle, [SAMPLE], documents=4, window=64, too_long="cut")
    limits = Limits(max_loss_increase=1000, min_agreement=0)
    quantize_bundle(bundle, "int8-qdq", corpus=corpus, clipping=Clipping(most_thin=1.0), limits=limits)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", ["demo", "gated", "all-sparse"])
def test_plans_for_three_kinds_of_gpu(portable, tmp_path, model, precision):
    bundle = Path(shutil.copytree(portable(model, precision), tmp_path / "bundle"))
    if precision == "int8-qdq":
        quantize(bundle)
    name = f"portable-{precision}"
    manifest = build(bundle, "--variant", name, "--compute-capability", *CAPABILITIES)
    wanted = [("tensorrt-rtx", capability, name, role) for capability in CAPABILITIES for role in ROLES]
    assert sorted(engine.key for engine in manifest.engines) == sorted(wanted)
    assert all(manifest.is_current(engine) for engine in manifest.engines)
    verify_files(bundle, tuple(engine.file for engine in manifest.engines))
    for engine in manifest.engines:
        assert engine.file.bytes > expert_weights(manifest.architecture, engine.role) * ITEM_BYTES[precision]


def expert_weights(a: Architecture, role: Role) -> int:
    """How many a stack's experts have; they stay in the variant's own type."""
    stack = a.encoder if role == "encoder" else a.decoder
    return len(stack.sparse_layers) * a.num_experts * (3 if a.gated else 2) * a.d_model * a.d_ff


def test_checkpoints_of_one_shape_have_the_same_graphs(exports, tmp_path):
    """What `refit` relies on. The second is exported by another process, so that no trace is shared."""
    first = exports("tied", "portable")
    done = pointsman_export("bundle", exports.checkpoint("sharded"), "-o", tmp_path / "b", "--form", "portable")
    assert done.returncode == 0, done.stderr
    (variant,) = read_manifest(tmp_path / "b").variants.values()
    (ours,) = first.manifest.variants.values()
    for role in ROLES:
        (graph, weights), (our_graph, our_weights) = variant.sources(role), ours.sources(role)
        assert sha256_of(tmp_path / "b" / graph.path) == our_graph.sha256
        assert weights.sha256 != our_weights.sha256
