"""Every precision of the demo model, of a gated and of an all-sparse checkpoint becomes plans for three kinds of GPU.

TensorRT-RTX builds ahead of time, so this needs no GPU; nothing here runs a plan.
"""

import shutil
from pathlib import Path

import pytest

from engines import build, pointsman_export
from pointsman.manifest import Architecture, Dtype, Manifest, Role, read_manifest, sha256_of, verify_files
from pointsman_export.bundle import export_bundle
from pointsman_export.engines.build import ROLES

DEMO = Path(__file__).parents[2] / "examples" / "demo_model"
CAPABILITIES = ("8.6", "8.9", "12.0")
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16", "float16")
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def check_plans(folder: Path, manifest: Manifest, name: str) -> None:
    wanted = [("tensorrt-rtx", capability, name, role) for capability in CAPABILITIES for role in ROLES]
    assert sorted(engine.key for engine in manifest.engines) == sorted(wanted)
    assert all(manifest.is_current(engine) for engine in manifest.engines)
    verify_files(folder, tuple(engine.file for engine in manifest.engines))


def weights_of_experts(a: Architecture, role: Role) -> int:
    """How many a stack has; they stay in the variant's own type."""
    return len((a.encoder if role == "encoder" else a.decoder).sparse_layers) * a.num_experts * 2 * a.d_model * a.d_ff


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_demo_model(tmp_path, dtype):
    folder = tmp_path / "demo"
    export_bundle(DEMO, folder, forms=["portable"], dtype=dtype)
    manifest = build(folder, "--compute-capability", *CAPABILITIES)
    check_plans(folder, manifest, f"portable-{dtype}")
    for engine in manifest.engines:
        experts = weights_of_experts(manifest.architecture, engine.role) * ITEM_BYTES[dtype]
        assert experts < engine.file.bytes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("checkpoint", ["gated", "all-sparse"])
def test_other_architectures(exports, tmp_path, checkpoint, dtype):
    folder = Path(shutil.copytree(exports(checkpoint, "portable", dtype=dtype).folder, tmp_path / "bundle"))
    check_plans(folder, build(folder, "--compute-capability", *CAPABILITIES), f"portable-{dtype}")


def test_checkpoints_of_one_shape_have_the_same_graphs(exports, tmp_path):
    """What `refit` relies on. The second is exported by another process, so that no trace is shared."""
    first = exports("tied", "portable")
    done = pointsman_export("bundle", exports.checkpoint("sharded"), "-o", tmp_path / "b", "--form", "portable")
    assert done.returncode == 0, done.stderr
    (variant,) = read_manifest(tmp_path / "b").variants.values()
    for role in ROLES:
        assert sha256_of(tmp_path / "b" / variant.graph(role).file) == sha256_of(first.graph(role))
    assert variant.files[-1].sha256 != next(iter(first.manifest.variants.values())).files[-1].sha256
