"""Plans in a bundle: what is built and recorded, what is replaced, and every mistake with the line that answers it.

All with TensorRT-RTX, which builds ahead of time; where a GPU is needed, what is said on a machine without one.
"""

import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import ModuleType

import onnx_ir as ir
import pytest
from small_bundles import write_small_bundle

from conftest import installed
from plans import build, edit_graph, pointsman_export, refused, without_gpu
from pointsman.bundle import ROLES, PlanOptions, read_manifest, sha256_of, verify_files
from pointsman_export.plans.library import Library
from pointsman_export.plans.profiles import profiles_for
from pointsman_export.plans.refusals import Refusal, sentence

NAME = "portable-float32"
SM89 = ("--compute-capability", "8.9")


@pytest.fixture
def bundle(exports, tmp_path) -> Path:
    """A portable bundle to build in."""
    return Path(shutil.copytree(exports("tied", "portable").folder, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def built(exports, tmp_path_factory) -> Path:
    """A bundle with plans."""
    folder = shutil.copytree(exports("tied", "portable").folder, tmp_path_factory.mktemp("built") / "bundle")
    build(folder, *SM89, "--max-rows", 4, "--weight-streaming")
    return Path(folder)


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# What is built


def test_what_is_recorded(built):
    manifest = read_manifest(built)
    assert [plan.role for plan in manifest.engines] == ["decoder", "encoder"]
    for plan in manifest.engines:
        assert (plan.flavour, plan.compute_capability, plan.variant) == ("tensorrt-rtx", "8.9", NAME)
        assert plan.version[0].isdecimal()
        assert plan.profiles == profiles_for(plan.role, manifest.limits, 4)
        assert plan.options == PlanOptions(weight_streaming=True, refittable=False, version_compatible=False)
        assert plan.file.path == f"engines/tensorrt-rtx-sm89/{NAME}/{plan.role}.plan"
        assert plan.build_seconds > 0
        assert manifest.is_current(plan)
    verify_files(built, tuple(manifest.files()))


def test_plans_are_built_from_the_variants_own_files(built):
    for plan in read_manifest(built).engines:
        for record in plan.built_from:
            assert record.sha256 == sha256_of(built / record.path)
        assert plan.built_from[0].path.endswith(
            {"encoder": "portable.encoder.onnx", "decoder": "portable.step.onnx"}[plan.role]
        )


@pytest.mark.parametrize("role", ROLES)
def test_a_plan_holds_every_weight_of_its_graph(built, role):
    """As it is or transposed, byte for byte: float32 weights are not rounded, and none is read after it was freed."""
    graph = ir.load(built / read_manifest(built).variants[NAME].graph_of_one_position(role).file).graph
    plan = (built / f"engines/tensorrt-rtx-sm89/{NAME}/{role}.plan").read_bytes()
    weights = [value.const_value.numpy() for name, value in graph.initializers.items() if name.endswith(".weight")]
    matrices = [weight for weight in weights if weight.ndim > 1]
    assert len(matrices) > 20
    assert all(matrix.tobytes() in plan or matrix.T.tobytes() in plan for matrix in matrices)


def test_nothing_else_is_left(built):
    assert files_in(built / "engines") == {f"tensorrt-rtx-sm89/{NAME}/{role}.plan" for role in ROLES}
    assert {path.name for path in built.parent.iterdir()} == {"bundle"}


def test_the_line_that_tells_of_each_plan(exports, bundle):
    done = pointsman_export("engines", bundle, *SM89)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"engines/tensorrt-rtx-sm89/{NAME}/{role}.plan" for role in ROLES]
    assert all(line.endswith(" s") and " MB in " in line for line in lines)


# What is there already


def test_current_plans_are_replaced_only_by_force(built, tmp_path):
    bundle = Path(shutil.copytree(built, tmp_path / "bundle"))
    assert refused("engines", bundle, *SM89) == (
        f"{bundle} has tensorrt-rtx plans of {NAME} for compute capability 8.9 already; replace them with --force"
    )
    manifest = build(bundle, *SM89, "--force")
    assert not any(plan.options.weight_streaming for plan in manifest.engines)
    assert len(manifest.engines) == 2
    verify_files(bundle, tuple(manifest.files()))


def test_plans_that_are_there_are_skipped_where_others_are_not(built, tmp_path):
    bundle = Path(shutil.copytree(built, tmp_path / "bundle"))
    done = pointsman_export("engines", bundle, "--compute-capability", "8.9", "8.6")
    assert done.returncode == 0
    there = f"{bundle} has tensorrt-rtx plans of {NAME} for compute capability 8.9 already"
    assert done.stderr == f"note: {there}, and they stay as they are\n"
    engines = read_manifest(bundle).engines
    assert [(each.compute_capability, each.options.weight_streaming) for each in engines] == [
        ("8.6", False),
        ("8.6", False),
        ("8.9", True),
        ("8.9", True),
    ]


def test_plans_that_are_out_of_date_are_replaced(built, tmp_path):
    bundle = Path(shutil.copytree(built, tmp_path / "bundle"))
    edit_graph(bundle, "decoder", lambda graph: setattr(graph, "doc_string", "written anew"))
    manifest = read_manifest(bundle)
    assert [manifest.is_current(plan) for plan in manifest.engines] == [False, True]
    manifest = build(bundle, *SM89)
    assert [manifest.is_current(plan) for plan in manifest.engines] == [True, True]


@pytest.mark.parametrize("role", [ROLES[0], pytest.param(ROLES[1], marks=pytest.mark.slow)])
def test_plans_are_built_again_where_a_file_is_missing(built, tmp_path, role):
    bundle = Path(shutil.copytree(built, tmp_path / "bundle"))
    (bundle / f"engines/tensorrt-rtx-sm89/{NAME}/{role}.plan").unlink()
    verify_files(bundle, tuple(build(bundle, *SM89).files()))


def test_plans_for_several_gpus_lie_side_by_side(built, tmp_path):
    bundle = Path(shutil.copytree(built, tmp_path / "bundle"))
    manifest = build(bundle, "--compute-capability", "12.0", "--max-rows", 1)
    assert [plan.compute_capability for plan in manifest.engines] == ["12.0", "12.0", "8.9", "8.9"]
    assert [len(plan.profiles) for plan in manifest.engines] == [1, 1, 2, 2]


# What the builder refuses


def foreign_operator(graph) -> None:
    node = next(node for node in graph if node.op_type == "Relu")
    node.op_type = "NoSuchOperator"


def adding_scatter(graph) -> None:
    node = next(node for node in graph if node.op_type == "ScatterElements")
    node.attributes["reduction"] = ir.AttrString("reduction", "add")


@pytest.mark.parametrize(
    ("role", "edit", "parts"),
    [
        (
            "decoder",
            foreign_operator,
            (
                "refuses node /decoder/block.0/layer.2/mlp/Relu (NoSuchOperator) of portable.step.onnx: ",
                "; write it in operators of standard ONNX, as the portable form is",
            ),
        ),
        (
            "encoder",
            adding_scatter,
            (
                "refuses portable.encoder.onnx: Unsupported reduction type",
                "; scatter to places that differ, without a reduction",
            ),
        ),
    ],
    ids=["foreign operator", "scatter with a reduction"],
)
def test_a_refusal_names_the_node_and_what_to_change(bundle, role, edit, parts):
    edit_graph(bundle, role, edit)
    before = (bundle / "manifest.json").read_bytes()
    line = refused("engines", bundle, *SM89)
    assert line.startswith("tensorrt-rtx ")
    for part in parts:
        assert part in line
    assert (bundle / "manifest.json").read_bytes() == before
    assert not (bundle / "engines").exists()


def test_more_rows_than_a_tensor_can_have(bundle):
    line = refused("engines", bundle, *SM89, "--max-rows", 9_000_000_000)
    assert " at /" not in line
    assert "checkVolume" not in line
    assert line.endswith("dimensions are [batch,source] Volume exceeds limit; build for fewer rows (--max-rows)")


def test_a_refusal_is_shortened_after_source_files_are_left_out():
    words = (
        f"one reason In checkVolume at /_src/runtime/core/shape.cpp:469; another In parse at /_src/{'x' * 300}.cpp:1"
    )
    library = ModuleType("tensorrt_rtx")
    library.__version__ = "1.0"
    told = sentence(Library("tensorrt-rtx", library), "a.onnx", Refusal(None, None, words))
    assert "refuses a.onnx: one reason; another; change that part" in told


def test_a_gpu_without_bfloat16(exports, tmp_path):
    bundle = shutil.copytree(exports("tied", "portable", dtype="bfloat16").folder, tmp_path / "bundle")
    line = refused("engines", bundle, "--compute-capability", "7.5")
    assert "refuses portable.encoder.onnx: " in line
    assert line.endswith("; build for compute capability 8.0 or later, or a variant that is not bfloat16")


# Mistakes


def test_a_folder_that_is_no_bundle(tmp_path):
    assert refused("engines", tmp_path, *SM89).startswith(f"{tmp_path} is not a bundle (no manifest.json)")


def test_a_bundle_without_a_portable_variant(tmp_path):
    write_small_bundle(tmp_path / "bundle", forms=("fused",))
    assert refused("engines", tmp_path / "bundle", *SM89) == (
        f"{tmp_path / 'bundle'} has no portable variant to build from; "
        "export it with `pointsman-export bundle --form portable`"
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--variant", "portable-float64"), "has no variant 'portable-float64'; those to build from are " + NAME),
        (
            ("--variant", NAME, "fused-float32"),
            "fused-float32 is a form for ONNX Runtime alone; those to build from are " + NAME,
        ),
        (("--max-rows", "0"), "--max-rows is 0; plans need at least 1"),
        (("--compute-capability", "89"), "'89' is not a compute capability; write it as 8.9"),
        (("--compute-capability", "08.9"), "'08.9' is not a compute capability; write it as 8.9"),
        (
            ("--compute-capability", "8.9", "9.0", "--flavour", "tensorrt-rtx"),
            "does not build for compute capability 9.0; it builds for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1",
        ),
        (
            (*SM89, "--version-compatible"),
            (
                "tensorrt-rtx has no lean runtime, so its plans cannot be version-compatible; "
                "leave that out, or use --flavour tensorrt"
            ),
        ),
        (
            (*SM89, "--flavour", "tensorrt"),
            (
                "tensorrt is not installed; run pip install '.[tensorrt]' in a checkout of Pointsman "
                "(NVIDIA's own index holds the wheels of tensorrt; docs/gpu.md says how)"
            ),
        ),
    ],
)
def test_a_mistake_is_answered_with_one_line(tmp_path, arguments, line):
    bundle = tmp_path / "bundle"
    write_small_bundle(bundle)
    before = files_in(bundle)
    assert refused("engines", bundle, *arguments).endswith(line)
    assert files_in(bundle) == before


@without_gpu
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            (),
            "there is no NVIDIA GPU here to build for; name compute capabilities, as in --compute-capability 8.9",
        ),
        (
            (*SM89, "--refittable"),
            (
                "tensorrt-rtx builds refittable plans only where there is an NVIDIA GPU, and there is none here; "
                "leave that out, or build on the GPU's machine"
            ),
        ),
    ],
)
def test_what_needs_a_gpu(tmp_path, arguments, line):
    write_small_bundle(tmp_path / "bundle")
    assert refused("engines", tmp_path / "bundle", *arguments) == line


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (100, "there is no NVIDIA GPU here to build for; name compute capabilities, as in --compute-capability 8.9"),
        (803, "the NVIDIA driver's parts are of different versions; restart the machine"),
        (999, "CUDA failed (cuInit: error 999); check the GPU with nvidia-smi"),
    ],
)
def test_a_driver_that_fails(tmp_path, code, line):
    (tmp_path / "driver.c").write_text(f"int cuInit(unsigned flags) {{ return {code}; }}")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", tmp_path / "driver.c"], check=True)
    write_small_bundle(tmp_path / "bundle")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    assert refused("engines", tmp_path / "bundle", env=environment) == line


def test_a_changed_weight_file(bundle):
    with (bundle / "variants/float32/weights.bin").open("r+b") as file:
        file.write(b"\xff")
    line = refused("engines", bundle, *SM89)
    assert "weights.bin was changed (its sha256 differs); export the bundle again" in line


def test_a_disk_that_fills_up(bundle):
    before = (bundle / "manifest.json").read_bytes()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    line = refused("engines", bundle, *SM89, preexec_fn=limit, env=unmeasured)  # what coverage writes is larger
    place = bundle / "engines/tensorrt-rtx-sm89" / NAME
    assert line == f"cannot write {place} (File too large); free some space or choose another output folder"
    assert (bundle / "manifest.json").read_bytes() == before
    assert not (bundle / "engines").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_polite_kill_leaves_what_was_complete(bundle, number):
    command = [installed("pointsman-export"), "engines", bundle, "--compute-capability", "8.6", "8.9", "8.0", "12.0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (bundle / "engines/tensorrt-rtx-sm89").is_dir():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.splitlines() == [
        "pointsman-export: interrupted; plans that were complete stay, and the rest of the bundle is as it was"
    ]
    manifest = read_manifest(bundle)
    assert {plan.compute_capability for plan in manifest.engines} == {"8.6"}
    assert files_in(bundle / "engines") == {plan.file.path.removeprefix("engines/") for plan in manifest.engines}
    assert [path.name for path in (bundle / "engines").iterdir()] == ["tensorrt-rtx-sm86"]
