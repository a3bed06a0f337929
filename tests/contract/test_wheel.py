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

from places import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
DIST_INFO = f"pointsman-{VERSION}.dist-info"
# What goes from text to text goes through all rooms of the runtime; the rest is in the slow run.
RUNTIME_TESTS = {
    "from text to text": ("tests/unit/runtime/test_cli.py", "tests/unit/runtime/test_infill.py"),
    "all": ("tests/unit/runtime", "tests/unit/decoding"),
}
TEXT = "The <extra_id_0> waits by <extra_id_1> box."

PACKAGES = {
    "pointsman": "runtime",
    "pointsman_commands": "runtime",
    "pointsman_export": "export",
    "pointsman_calib": "calib",
}
# Modules, the source of GPU kernels, a product to try, the report's style, the page.
KINDS = (".py", ".cu", ".onnx", ".css", ".html", ".js")
METADATA = {f"{DIST_INFO}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}


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
    asked_for = (f"{wheel}[cpu]", "pytest", "pytest-timeout")
    run(*pip, "install", "--no-compile", "-c", ROOT / "constraints.txt", *asked_for)  # most modules are never imported
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
        names = archive.namelist()
    assert len(names) == len(set(names))
    assert set(names) - METADATA == {*modules_in_the_tree(), *(f"{package}/py.typed" for package in PACKAGES)}
    assert set(names) >= METADATA


def modules_in_the_tree():
    """All that packages may hold; a file of another kind fails the test until its kind is added to the rule."""
    for package, folder in PACKAGES.items():
        for path in (ROOT / folder / package).rglob("*"):
            if path.suffix in KINDS and path.is_file():
                yield path.relative_to(ROOT / folder).as_posix()


def test_what_it_asks_for(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.parser.BytesParser().parsebytes(archive.read(f"{DIST_INFO}/METADATA"))
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra")) == {
        *("cpu", "gpu", "export", "calib", "tensorrt", "tensorrt-rtx", "serve", "client", "ray")
    }
    unconditional = {line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
    assert unconditional == {"numpy>=2.0", "sentencepiece!=0.2.1,>=0.2.0"}


def test_no_training_framework_comes_with_it(clean_python):
    code = """if True:
        import importlib.util, pointsman
        print(pointsman.__file__)
        for name in ("torch", "transformers", "onnx", "onnx_ir", "ml_dtypes", "huggingface_hub"):
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
    assert (
        done.stderr
        == f"pointsman-{extra}: onnx_ir is not installed; run pip install '.[{extra}]' in a checkout of Pointsman\n"
    )


def test_serving_says_what_it_lacks(clean_python):
    command = clean_python.with_name("pointsman")
    done = subprocess.run([command, "serve", "bundle"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pointsman: uvicorn is not installed; run pip install '.[serve]' in a checkout of Pointsman\n"


@pytest.mark.parametrize("arguments", [("engines", "bundle"), ("refit", "bundle", "--from", "other")])
def test_building_engines_says_what_it_lacks(clean_python, arguments):
    command = clean_python.with_name("pointsman-export")
    done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("pointsman-export: tqdm is not installed; run pip install '.[tensorrt-rtx]', or")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("which", ["from text to text", pytest.param("all", marks=pytest.mark.slow)])
def test_the_runtimes_own_tests_pass_there(clean_python, which):
    # The checkout's packages must not stand in for the installed ones.
    helpers = "pythonpath=tests tests/unit/decoding tests/unit/runtime"
    pytest_there = (clean_python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", helpers)
    closing = run(*pytest_there, *RUNTIME_TESTS[which], cwd=ROOT).splitlines()[-1]
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
