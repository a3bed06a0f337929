"""Building plans with the installed command, in a process of its own: a library serves one flavour in a process."""

import subprocess
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest

from conftest import installed
from pointsman.backends.nvidia import missing_gpu
from pointsman.bundle import Manifest, Role, read_manifest, record_of, write_manifest

without_gpu = pytest.mark.skipif(missing_gpu() is None, reason="there is an NVIDIA GPU here")


def pointsman_export(*arguments: object, **keywords) -> subprocess.CompletedProcess[str]:
    command = [installed("pointsman-export"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **keywords)


def build(bundle: Path, *arguments: object) -> Manifest:
    """Build TensorRT-RTX plans, and read what the bundle says then."""
    done = pointsman_export("engines", bundle, "--flavour", "tensorrt-rtx", *arguments)
    assert done.returncode == 0, done.stderr
    return read_manifest(bundle)


def refused(*arguments: object, **keywords) -> str:
    """The one line with which the command refuses."""
    done = pointsman_export(*arguments, **keywords)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert done.stdout == ""
    return lines[0].removeprefix("pointsman-export: ")


def edit_graph(bundle: Path, role: Role, edit) -> None:
    """Change a graph of the only portable variant, and its record with it."""
    manifest = read_manifest(bundle)
    ((name, variant),) = ((name, each) for name, each in manifest.variants.items() if each.form == "portable")
    path = bundle / variant.graph_of_one_position(role).file
    model = ir.load(path)
    edit(model.graph)
    path.write_bytes(ir.to_proto(model).SerializeToString())
    files = tuple(record_of(bundle, bundle / record.path) for record in variant.files)
    write_manifest(replace(manifest, variants=manifest.variants | {name: replace(variant, files=files)}), bundle)
