"""Synthetic checkpoints and their bundles, kept between runs and made anew when what makes them has changed."""

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from dense_t5 import convert
from pointsman.bundle import names, read_manifest
from shapes import SHAPES, Dtype, write_checkpoint

HERE = Path(__file__).parent
EXPORTER = str(Path(sys.executable).with_name("pointsman-export"))
CALIBRATOR = str(Path(sys.executable).with_name("pointsman-calib"))


def prepared_checkpoint(folder: Path, shape: str, dtype: Dtype = "float32") -> Path:
    """The checkpoint of a shape, stored at a precision, in `folder`."""
    checkpoint = folder / "checkpoints" / (shape if dtype == "float32" else f"{shape}-{dtype}")
    if not _is_newer(checkpoint / "config.json", [HERE / "shapes.py", HERE / "vocabulary.py"]):
        print(f"writing {checkpoint}", file=sys.stderr)
        shutil.rmtree(checkpoint, ignore_errors=True)
        write_checkpoint(checkpoint, SHAPES[shape], dtype=dtype)
    return checkpoint


FORMS: Final = {"fused": {"fused"}, "portable": {"portable"}, "both": {"fused", "portable"}}


def prepared_bundle(
    folder: Path,
    checkpoint: Path,
    *,
    forms: Literal["fused", "portable", "both"],
    dtype: Dtype = "float32",
    timeout: float | None = None,
) -> Path:
    """The bundle of a checkpoint, in `folder`, written by the installed exporter.

    Args:
        folder: where bundles are kept.
        checkpoint: what is exported.
        forms: of the network; a bundle that has them is taken as it is.
        dtype: of the variants.
        timeout: seconds that the export may take.

    Raises:
        CalledProcessError: the export fails.
        TimeoutExpired: it takes too long.
    """
    bundle = folder / "bundles" / (checkpoint.name if dtype == "float32" else f"{checkpoint.name}-as-{dtype}")
    there: set[str] = set()
    if _is_newer(bundle / names.MANIFEST, [*_exporter(), checkpoint / "config.json"]):
        there = {each.form for each in read_manifest(bundle).variants.values() if each.precision == dtype}
    if not there >= FORMS[forms]:
        form = "both" if there else forms  # somebody else's stays
        command = [EXPORTER, "bundle", str(checkpoint), "-o", str(bundle), "--form", form, "--dtype", dtype]
        subprocess.run([*command, "--force", "--discard"], check=True, timeout=timeout)  # variants are made again
    return bundle


def prepared_variant(bundle: Path, scheme: str) -> None:
    """Add a weight-only variant, rounded to nearest, to a prepared bundle, by the installed calibrator."""
    if not _is_newer(bundle / names.weights_file(scheme), [*_calibrator(), bundle / names.weights_file("float32")]):
        subprocess.run([CALIBRATOR, "quantize", str(bundle), "--scheme", scheme, "--force"], check=True)


def prepared_quantized(folder: Path, shape: str, scheme: str) -> Path:
    """The bundle of a shape whose quantized variant alone can run, for shapes that are too large to keep more of."""
    bundle = folder / "bundles" / shape
    if not _is_newer(bundle / names.weights_file(scheme), [*_exporter(), *_calibrator(), HERE / "shapes.py"]):
        checkpoint = prepared_checkpoint(folder, shape, "bfloat16")
        command = [EXPORTER, "bundle", str(checkpoint), "-o", str(bundle), "--form", "fused", "--force", "--discard"]
        subprocess.run(command, check=True)
        shutil.rmtree(checkpoint)
        subprocess.run([CALIBRATOR, "quantize", str(bundle), "--scheme", scheme, "--force"], check=True)
        (bundle / names.weights_file("float32")).unlink()
    return bundle


def prepared_peer(folder: Path, dense: Path, quantization: str | None) -> Path:
    """CTranslate2's model of a dense checkpoint, in `folder`, with weights as the converter calls them."""
    model = folder / "ctranslate2" / f"{dense.name}-{quantization or 'float32'}"
    if not _is_newer(model / "model.bin", [HERE / "dense_t5.py", dense / "config.json"]):
        print(f"writing {model}", file=sys.stderr)
        model.parent.mkdir(parents=True, exist_ok=True)
        convert(dense, model, quantization)
    return model


def _exporter() -> list[Path]:
    """The files that decide what a bundle is."""
    contract = (HERE.parent / "runtime" / "pointsman" / "bundle").glob("*.py")
    return [*(HERE.parent / "export" / "pointsman_export").rglob("*.py"), *contract]


def _calibrator() -> list[Path]:
    return [*(HERE.parent / "calib" / "pointsman_calib").rglob("*.py")]


def _is_newer(made: Path, makers: Iterable[Path]) -> bool:
    return made.exists() and made.stat().st_mtime >= max(maker.stat().st_mtime for maker in makers)
