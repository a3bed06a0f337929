"""The wheel as a user gets it: which files are in it, and that the runtime works from it where torch is not."""

import email.parser
import json
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
DIST_INFO = f"pointsman-{VERSION}.dist-info"
RUNTIME_TESTS = ("tests/unit/runtime", "tests/unit/decoding")
TEXT = "The <extra_id_0> waits by <extra_id_1> box."

FILES = {
    f"{DIST_INFO}/METADATA",
    f"{DIST_INFO}/RECORD",
    f"{DIST_INFO}/WHEEL",
    f"{DIST_INFO}/entry_points.txt",
    f"{DIST_INFO}/licenses/LICENSE",
    "pointsman/__init__.py",
    "pointsman/arguments.py",
    "pointsman/backends/__init__.py",
    "pointsman/backends/base.py",
    "pointsman/backends/choice.py",
    "pointsman/backends/onnxruntime.py",
    "pointsman/backends/tensorrt/__init__.py",
    "pointsman/backends/tensorrt/backend.py",
    "pointsman/backends/tensorrt/contexts.py",
    "pointsman/backends/tensorrt/cuda.py",
    "pointsman/backends/tensorrt/device.py",
    "pointsman/backends/tensorrt/execution.py",
    "pointsman/backends/tensorrt/kernel_cache.py",
    "pointsman/backends/tensorrt/libraries.py",
    "pointsman/backends/tensorrt/memory.py",
    "pointsman/backends/tensorrt/opening.py",
    "pointsman/backends/tensorrt/plan.py",
    "pointsman/backends/tensorrt/profiles.py",
    "pointsman/backends/tensorrt/replays.py",
    "pointsman/backends/tensorrt/select_best.cu",
    "pointsman/backends/tensorrt/selection.py",
    "pointsman/backends/tensorrt/staging.py",
    "pointsman/backends/tensorrt/validity.py",
    "pointsman/backends/tensorrt/workspace.py",
    "pointsman/cli.py",
    "pointsman/decoding/__init__.py",
    "pointsman/decoding/beam_search.py",
    "pointsman/decoding/constraints.py",
    "pointsman/decoding/decode.py",
    "pointsman/decoding/generation.py",
    "pointsman/decoding/next_scores.py",
    "pointsman/decoding/options.py",
    "pointsman/decoding/processors.py",
    "pointsman/decoding/rules.py",
    "pointsman/decoding/sampling.py",
    "pointsman/decoding/scores.py",
    "pointsman/decoding/step.py",
    "pointsman/decoding/token_stream.py",
    "pointsman/errors.py",
    "pointsman/infill.py",
    "pointsman/inspection.py",
    "pointsman/manifest/__init__.py",
    "pointsman/manifest/architecture.py",
    "pointsman/manifest/consistency.py",
    "pointsman/manifest/document.py",
    "pointsman/manifest/engines.py",
    "pointsman/manifest/files.py",
    "pointsman/manifest/graphs.py",
    "pointsman/manifest/quantization.py",
    "pointsman/manifest/storage.py",
    "pointsman/manifest/variants.py",
    "pointsman/model.py",
    "pointsman/nvidia.py",
    "pointsman/py.typed",
    "pointsman/records.py",
    "pointsman/selection.py",
    "pointsman/template.py",
    "pointsman/tokenizer.py",
    "pointsman/wording.py",
    "pointsman/writing.py",
    "pointsman_calib/__init__.py",
    "pointsman_calib/allocation.py",
    "pointsman_calib/batches.py",
    "pointsman_calib/c4.py",
    "pointsman_calib/cli.py",
    "pointsman_calib/commands/__init__.py",
    "pointsman_calib/commands/compare.py",
    "pointsman_calib/commands/corpus_arguments.py",
    "pointsman_calib/commands/outputs.py",
    "pointsman_calib/commands/quantize.py",
    "pointsman_calib/commands/ranges.py",
    "pointsman_calib/compare/__init__.py",
    "pointsman_calib/compare/comparison.py",
    "pointsman_calib/compare/evaluation.py",
    "pointsman_calib/compare/exposure.py",
    "pointsman_calib/compare/generation.py",
    "pointsman_calib/compare/loss.py",
    "pointsman_calib/compare/metrics.py",
    "pointsman_calib/compare/polygraphy_commands.py",
    "pointsman_calib/compare/results.py",
    "pointsman_calib/compare/runners.py",
    "pointsman_calib/compare/subject.py",
    "pointsman_calib/compare/table.py",
    "pointsman_calib/compare/tallies.py",
    "pointsman_calib/compare/teacher_forcing.py",
    "pointsman_calib/compare/variants.py",
    "pointsman_calib/corpus.py",
    "pointsman_calib/corruption.py",
    "pointsman_calib/coverage.py",
    "pointsman_calib/documents.py",
    "pointsman_calib/external_data.py",
    "pointsman_calib/fetching.py",
    "pointsman_calib/graph_pieces.py",
    "pointsman_calib/hub.py",
    "pointsman_calib/observers/__init__.py",
    "pointsman_calib/observers/clipping.py",
    "pointsman_calib/observers/histogram.py",
    "pointsman_calib/piecewise.py",
    "pointsman_calib/producer.py",
    "pointsman_calib/products.py",
    "pointsman_calib/py.typed",
    "pointsman_calib/qdq/__init__.py",
    "pointsman_calib/qdq/clipping.py",
    "pointsman_calib/qdq/draft.py",
    "pointsman_calib/qdq/graphs.py",
    "pointsman_calib/qdq/variant.py",
    "pointsman_calib/qdq/weights.py",
    "pointsman_calib/quantize.py",
    "pointsman_calib/range_collection.py",
    "pointsman_calib/range_table.py",
    "pointsman_calib/ranges.py",
    "pointsman_calib/report/__init__.py",
    "pointsman_calib/report/axes.py",
    "pointsman_calib/report/cost_plot.py",
    "pointsman_calib/report/drawing.py",
    "pointsman_calib/report/figures.py",
    "pointsman_calib/report/heat_map.py",
    "pointsman_calib/report/line_plot.py",
    "pointsman_calib/report/markup.py",
    "pointsman_calib/report/page.py",
    "pointsman_calib/report/quantization.py",
    "pointsman_calib/report/style.css",
    "pointsman_calib/report/tables.py",
    "pointsman_calib/sensitivity/__init__.py",
    "pointsman_calib/sensitivity/limits.py",
    "pointsman_calib/sensitivity/scores.py",
    "pointsman_calib/sensitivity/settling.py",
    "pointsman_calib/weight_only/__init__.py",
    "pointsman_calib/weight_only/draft.py",
    "pointsman_calib/weight_only/formats.py",
    "pointsman_calib/weight_only/graphs.py",
    "pointsman_calib/weight_only/input_statistics.py",
    "pointsman_calib/weight_only/operators.py",
    "pointsman_calib/weight_only/variant.py",
    "pointsman_calib/weight_rounding/__init__.py",
    "pointsman_calib/weight_rounding/blocks.py",
    "pointsman_calib/weight_rounding/finite.py",
    "pointsman_calib/weight_rounding/gptq.py",
    "pointsman_calib/weight_rounding/per_channel.py",
    "pointsman_export/__init__.py",
    "pointsman_export/architecture/__init__.py",
    "pointsman_export/architecture/complaints.py",
    "pointsman_export/architecture/derivation.py",
    "pointsman_export/architecture/hints.py",
    "pointsman_export/architecture/tensors.py",
    "pointsman_export/branches.py",
    "pointsman_export/bundle.py",
    "pointsman_export/checkpoint/__init__.py",
    "pointsman_export/checkpoint/folder.py",
    "pointsman_export/checkpoint/hub.py",
    "pointsman_export/checkpoint/layout.py",
    "pointsman_export/checkpoint/safetensors_format.py",
    "pointsman_export/checkpoint/stored.py",
    "pointsman_export/checkpoint/torch_format.py",
    "pointsman_export/cli.py",
    "pointsman_export/engines/__init__.py",
    "pointsman_export/engines/build.py",
    "pointsman_export/engines/callbacks.py",
    "pointsman_export/engines/cli.py",
    "pointsman_export/engines/gpu.py",
    "pointsman_export/engines/library.py",
    "pointsman_export/engines/plan.py",
    "pointsman_export/engines/profiles.py",
    "pointsman_export/engines/recording.py",
    "pointsman_export/engines/refit.py",
    "pointsman_export/engines/refusals.py",
    "pointsman_export/graphs.py",
    "pointsman_export/modules/__init__.py",
    "pointsman_export/modules/attention.py",
    "pointsman_export/modules/block.py",
    "pointsman_export/modules/build.py",
    "pointsman_export/modules/feed_forward.py",
    "pointsman_export/modules/layers.py",
    "pointsman_export/modules/positions.py",
    "pointsman_export/moe.py",
    "pointsman_export/network.py",
    "pointsman_export/py.typed",
    "pointsman_export/reference.py",
    "pointsman_export/repetition.py",
    "pointsman_export/verify.py",
    "pointsman_export/weights.py",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # Without isolation, the build backend is the one that constraints.txt pins.
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def clean_python(wheel, tmp_path_factory):
    """A Python that has the wheel, what its extra `cpu` brings, and pytest."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "--quiet")
    run(*pip, "install", "-c", ROOT / "constraints.txt", f"{wheel}[cpu]", "pytest", "pytest-timeout")
    return python


def run(*command, **keywords):
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, encoding="utf-8", check=False, **keywords
    )
    assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{done.stdout[-6000:]}{done.stderr[-6000:]}"
    return done.stdout


def test_its_files(wheel):
    assert wheel.name == f"pointsman-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) == FILES


def test_what_it_asks_for(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.parser.BytesParser().parsebytes(archive.read(f"{DIST_INFO}/METADATA"))
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra")) == {"cpu", "gpu", "export", "calib", "tensorrt", "tensorrt-rtx"}
    unconditional = {line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
    assert unconditional == {"numpy>=2.0", "sentencepiece>=0.2.0"}


def test_no_training_framework_comes_with_it(clean_python):
    code = """if True:
        import importlib.util, pointsman
        print(pointsman.__file__)
        for name in ("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "ml_dtypes", "huggingface_hub"):
            assert importlib.util.find_spec(name) is None, name
    """
    place = run(clean_python, "-c", code).strip()
    assert Path(place).is_relative_to(clean_python.parents[1])


@pytest.mark.parametrize(
    ("extra", "arguments"), [("export", ("bundle", "model", "-o", "out")), ("calib", ("quantize", "bundle"))]
)
def test_tools_say_what_they_lack(clean_python, extra, arguments):
    command = clean_python.with_name(f"pointsman-{extra}")
    done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"pointsman-{extra}: onnx_ir is not installed; install pointsman[{extra}]\n"


@pytest.mark.parametrize("arguments", [("engines", "bundle"), ("refit", "bundle", "--from", "other")])
def test_building_engines_says_what_it_lacks(clean_python, arguments):
    command = clean_python.with_name("pointsman-export")
    done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("pointsman-export: tqdm is not installed; install pointsman[tensorrt-rtx], or")
    assert done.stderr.count("\n") == 1


def test_the_runtimes_own_tests_pass_there(clean_python):
    # The checkout's packages must not stand in for the installed ones.
    helpers = "pythonpath=tests tests/unit/decoding tests/unit/runtime"
    closing = run(
        clean_python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", helpers, *RUNTIME_TESTS, cwd=ROOT
    ).splitlines()[-1]
    assert "passed" in closing
    assert "skipped" not in closing


def test_it_fills_what_the_checkout_fills(clean_python, tiny_bundle):
    commands = (python.with_name("pointsman") for python in (clean_python, Path(sys.executable)))
    theirs, ours = (
        json.loads(run(command, "infill", tiny_bundle, TEXT, "--num-beams", 4, "--json"))["results"][0]["fills"][0]
        for command in commands
    )
    assert theirs["text"] == ours["text"]
    assert theirs["score"] == pytest.approx(ours["score"], abs=1e-4)
