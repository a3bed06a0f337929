"""What is exported over a bundle again: quantized variants and plans stay where they are right, or are asked for."""

import json
import shutil
from dataclasses import replace

import pytest
from small_bundles import PROFILE

from pointsman.bundle import PlanOptions, PlanRecord, read_manifest, record_of, verify_files, write_manifest
from pointsman.errors import OutputExistsError
from pointsman.infill import Infiller
from pointsman_calib import quantize
from pointsman_export import export_bundle
from pointsman_export.cli.main import main
from said import fits

TEXT = "The <extra_id_0> waits."
LOST = "fused-int8, the encoder plan of portable-float32 for 8.9"


@pytest.fixture(scope="module")
def original(tiny_checkpoint, tmp_path_factory):
    """A bundle of both forms, with a quantized variant and a file that plays the part of a plan."""
    folder = tmp_path_factory.mktemp("kept") / "bundle"
    export_bundle(tiny_checkpoint, folder)
    quantize(folder, "int8")
    manifest = read_manifest(folder)
    path = folder / "engines/tensorrt-rtx-sm89/portable-float32/encoder.plan"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a plan")
    plan = PlanRecord(
        flavour="tensorrt-rtx",
        version="1",
        compute_capability="8.9",
        variant="portable-float32",
        role="encoder",
        built_from=manifest.variants["portable-float32"].sources("encoder"),
        profiles=(PROFILE,),
        options=PlanOptions(weight_streaming=False, refittable=False, version_compatible=False),
        file=record_of(folder, path),
        build_seconds=1.0,
    )
    write_manifest(replace(manifest, engines=(plan,)), folder)
    return folder


@pytest.fixture
def bundle(original, tmp_path):
    return shutil.copytree(original, tmp_path / "bundle")


def test_what_is_still_right_is_kept(tiny_checkpoint, bundle):
    before, fill = read_manifest(bundle), Infiller.load(bundle, variant="fused-int8").infill(TEXT)
    assert export_bundle(tiny_checkpoint, bundle, force=True) == before
    verify_files(bundle, tuple(read_manifest(bundle).files()))
    assert Infiller.load(bundle, variant="fused-int8").infill(TEXT) == fill


def test_what_is_said_of_what_was_kept(tiny_checkpoint, bundle, capsys):
    """Its parity was not measured: what its record has is that of the variant that it was made from."""
    assert main(["bundle", str(tiny_checkpoint), "-o", str(bundle), "--force"]) == 0
    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if ": " in line)
    assert fits(said["fused-float32"], "* MB, parity *e-0* of *e-0* allowed, worst at *")
    assert fits(said["fused-int8"], "* MB, kept (quantized from fused-float32)")


def test_plans_that_were_kept_are_counted(tiny_checkpoint, bundle, capsys):
    assert main(["bundle", str(tiny_checkpoint), "-o", str(bundle), "--force"]) == 0
    assert "kept 1 plan\n" in capsys.readouterr().out


@pytest.mark.parametrize("changes", [{"capacity": 2}, {"forms": ["portable"], "capacity": 2}, {"dtype": "bfloat16"}])
def test_what_is_not_is_asked_for(tiny_checkpoint, bundle, changes, capsys):
    before = read_manifest(bundle)
    with pytest.raises(OutputExistsError, match="does not fit what this export writes: fused-int8") as caught:
        export_bundle(tiny_checkpoint, bundle, force=True, **changes)
    assert str(caught.value).endswith("; choose another output folder, or add `discard=True` and make it again")
    assert read_manifest(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    after = export_bundle(tiny_checkpoint, bundle, force=True, discard=True, **changes)
    said = capsys.readouterr().err
    assert "note: fused-int8 does not fit what was exported, and is not kept: make it again\n" in said
    assert not after.engines
    assert all(variant.quantization is None for variant in after.variants.values())
    assert not (bundle / "engines").exists()
    assert not (bundle / "variants" / "int8").exists()


def test_all_that_would_be_lost_is_named(tiny_checkpoint, bundle):
    with pytest.raises(OutputExistsError, match=LOST):
        export_bundle(tiny_checkpoint, bundle, force=True, capacity=2)


def test_a_plan_for_other_limits_is_not_right(tiny_checkpoint, bundle):
    with pytest.raises(OutputExistsError, match=r"writes: the encoder plan of portable-float32 for 8\.9; choose"):
        export_bundle(tiny_checkpoint, bundle, force=True, max_tokens=512)


def test_a_bundle_that_cannot_be_read(tiny_checkpoint, bundle):
    document = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(document | {"schema": 99}))
    with pytest.raises(
        OutputExistsError, match=r"cannot be read \(.*\) and holds what would be lost: int8, tensorrt-rtx"
    ):
        export_bundle(tiny_checkpoint, bundle, force=True)
    assert not export_bundle(tiny_checkpoint, bundle, force=True, discard=True).engines
