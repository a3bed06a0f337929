"""A bundle with a variant that overflows."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from pointsman.bundle import names, read_manifest, record_of, write_manifest

NORM = "decoder.block.1.layer.2.layer_norm.weight"


@pytest.fixture(scope="session")
def overflowing(quantized_bundle, tmp_path_factory) -> Path:
    """The bundle with NaN in the second decoder block of `fused-int8`."""
    bundle = shutil.copytree(quantized_bundle, tmp_path_factory.mktemp("overflowing") / "bundle")
    manifest = read_manifest(bundle)
    int8 = manifest.variants["fused-int8"]
    stored = ir.load(bundle / int8.decoder.file).graph.initializers[NORM].const_value
    with (bundle / names.weights_file("int8")).open("r+b") as file:
        file.seek(stored.offset)
        file.write(np.float32(np.nan).tobytes())
    files = tuple(record_of(bundle, bundle / old.path) for old in int8.files)
    write_manifest(replace(manifest, variants=manifest.variants | {"fused-int8": replace(int8, files=files)}), bundle)
    return bundle
