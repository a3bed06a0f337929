"""Make `examples/demo_int8`: the demo model's bundle with nothing but int8 weights, which is small enough to be kept.

Run it with the packages of `make setup`: python examples/demo_model/int8_bundle.py
"""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from pointsman.bundle import read_manifest, write_manifest
from pointsman_calib import quantize
from pointsman_export import export_bundle

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parent / "demo_int8"
VARIANT = "fused-int8"


def main() -> None:
    """Export, quantize to the nearest numbers, and copy what that variant needs."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "demo"
        export_bundle(HERE, bundle, forms=["fused"])
        quantize(bundle, "int8")
        keep(bundle, VARIANT, OUTPUT)


def keep(bundle: Path, variant: str, output: Path) -> None:
    """Copy one variant, with the vocabulary and the manifest, in the place of what is there."""
    manifest = read_manifest(bundle)
    only = replace(manifest, variants={variant: manifest.variants[variant]})
    shutil.rmtree(output, ignore_errors=True)
    for record in only.files():
        target = output / record.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / record.path, target)
    write_manifest(only, output)


if __name__ == "__main__":
    main()
