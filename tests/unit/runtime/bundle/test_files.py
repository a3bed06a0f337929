"""Files of a bundle are checked against their records, before they are loaded or meanwhile."""

import re
import shutil
from pathlib import Path

import pytest
from small_bundles import flip_a_bit

from pointsman.bundle import FileRecord, read_manifest, verified, verify_files
from pointsman.errors import BundleError

WEIGHTS = "variants/float32/weights.bin"
GRAPH = "variants/float32/fused.encoder.onnx"


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))


def test_verification_accepts_a_sound_bundle(bundle):
    verify_files(bundle, read_manifest(bundle).files())


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (flip_a_bit, r"weights.bin was changed \(its sha256 differs\)"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "weights.bin has 1099 bytes instead of 1100"),
        (Path.unlink, "weights.bin is missing"),
    ],
    ids=["one bit", "truncated", "missing"],
)
def test_verification_finds(bundle, damage, problem):
    damage(bundle / WEIGHTS)
    with pytest.raises(BundleError, match=f"is damaged: {WEIGHTS[: -len('weights.bin')]}{problem}; export"):
        verify_files(bundle, read_manifest(bundle).files())


def loaded(bundle, refusal=None):
    """Load what is verified; an engine may refuse it."""
    with verified(bundle, read_manifest(bundle).variants["fused-float32"].files):
        if refusal:
            raise refusal
        return "loaded"


@pytest.mark.parametrize("refusal", [None, BundleError("refused")])
def test_changed_weights_are_found_whatever_is_said_of_them_meanwhile(bundle, refusal):
    flip_a_bit(bundle / WEIGHTS)
    with pytest.raises(BundleError, match=r"weights\.bin was changed"):
        loaded(bundle, refusal)


@pytest.mark.parametrize(
    ("file", "damage", "problem"),
    [
        (WEIGHTS, lambda path: path.write_bytes(path.read_bytes()[:-1]), "has 1099 bytes instead of 1100"),
        (WEIGHTS, Path.unlink, "is missing"),
        (GRAPH, flip_a_bit, "was changed"),
    ],
)
def test_what_could_harm_is_found_before_anything_is_loaded(bundle, file, damage, problem):
    damage(bundle / file)
    with pytest.raises(BundleError, match=f"{file} {problem}"):
        loaded(bundle, AssertionError("something was loaded"))


def test_what_is_said_of_whole_files_is_passed_on(bundle):
    assert loaded(bundle) == "loaded"
    with pytest.raises(BundleError, match="refused"):
        loaded(bundle, BundleError("refused"))


@pytest.mark.parametrize(
    ("paths", "remedy"),
    [
        (["engines/tensorrt-rtx-sm89/portable-float32/decoder.plan"], "build the engines again"),
        (
            ["variants/int8/weights.bin", "variants/int8-qdq/ranges.json"],
            "quantize it again (`pointsman-calib quantize --force`)",
        ),
        (
            ["engines/tensorrt-rtx-sm89/a/decoder.plan", "variants/int4/weights.bin"],
            "quantize it again (`pointsman-calib quantize --force`)",
        ),
        (["variants/int8/weights.bin", "variants/float32/weights.bin"], "export the bundle again"),
        (["engines.plan"], "export the bundle again"),
        (["tokenizer/spiece.model"], "export the bundle again"),
    ],
)
def test_damage_is_mended_with_the_least(tmp_path, paths, remedy):
    records = tuple(FileRecord(path=path, bytes=1, sha256="0" * 64) for path in paths)
    with pytest.raises(BundleError, match=f"is missing; {re.escape(remedy)}$"):
        verify_files(tmp_path, records)


def test_verification_names_every_file(bundle):
    records = list(read_manifest(bundle).files())
    for record in records:
        (bundle / record.path).unlink()
    with pytest.raises(BundleError) as caught:
        verify_files(bundle, tuple(records))
    assert re.findall(r"(\S+) is missing", str(caught.value)) == [record.path for record in records]
