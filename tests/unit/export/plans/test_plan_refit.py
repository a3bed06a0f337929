"""Which plans another checkpoint fits into, decided from manifests alone; refitting itself needs a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_bundles import ARCHITECTURE, engine, write_small_bundle

from plans import refused, without_gpu
from pointsman.bundle import Limits, Manifest, PlanOptions, read_manifest, record_of, write_manifest

NAME = "portable-float32"
BUILD = "build them with `pointsman-export engines"


@pytest.fixture
def donor(tmp_path) -> Path:
    """A bundle with refittable plans."""
    folder = tmp_path / "donor"
    manifest = write_small_bundle(folder)
    plans = tuple(engine(folder, manifest.variants[NAME], role) for role in ("decoder", "encoder"))
    write_manifest(replace(manifest, engines=plans), folder)
    return folder


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A bundle of the same shape."""
    write_small_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def change(folder: Path, edit) -> None:
    write_manifest(edit(read_manifest(folder)), folder)


def refit(bundle: Path, donor: Path, *arguments: str) -> str:
    return refused("refit", bundle, "--from", donor, *arguments)


@without_gpu
def test_plans_that_fit_need_their_gpu(bundle, donor):
    assert refit(bundle, donor) == (
        "plans are refitted on the GPU that they are for, and there is no NVIDIA GPU here; "
        "refit on one of compute capability 8.9"
    )


def plain(manifest: Manifest) -> Manifest:
    options = PlanOptions(weight_streaming=False, refittable=False, version_compatible=False)
    return replace(manifest, engines=tuple(replace(plan, options=options) for plan in manifest.engines))


def test_plans_that_are_not_refittable(bundle, donor):
    change(donor, plain)
    assert refit(bundle, donor) == f"{donor} has no refittable plans; {BUILD} --refittable`"


def test_plans_that_are_out_of_date(bundle, donor):
    change(donor, lambda manifest: replace(manifest, variants={"fused-float32": manifest.variants["fused-float32"]}))
    assert refit(bundle, donor) == f"{donor} has no refittable plans; {BUILD} --refittable`"


def test_another_shape(bundle, donor):
    change(
        bundle,
        lambda manifest: replace(
            manifest, architecture=replace(ARCHITECTURE, d_model=64, num_experts=16), limits=Limits(tokens=64)
        ),
    )
    assert refit(bundle, donor) == (
        f"{bundle} is of another shape than {donor} (d_model 64 against 32, num_experts 16 against 8, "
        f"tokens 64 against 128); {BUILD}`"
    )


def test_none_of_the_variants(bundle, donor):
    change(bundle, lambda manifest: replace(manifest, variants={"fused-float32": manifest.variants["fused-float32"]}))
    assert refit(bundle, donor) == f"{bundle} has none of the variants that {donor} has refittable plans of: {NAME}"


def test_another_graph(bundle, donor):
    def edit(manifest: Manifest) -> Manifest:
        variant = manifest.variants[NAME]
        (bundle / variant.encoder.file).write_bytes(b"of other options")
        files = tuple(record_of(bundle, bundle / record.path) for record in variant.files)
        return replace(manifest, variants=manifest.variants | {NAME: replace(variant, files=files)})

    change(bundle, edit)
    assert refit(bundle, donor) == (
        f"variants/float32/portable.encoder.onnx of {bundle} is not the graph that the plans of {donor} were built "
        "from; export both checkpoints with the same version and options"
    )


def test_plans_of_both_flavours(bundle, donor):
    def both(manifest: Manifest) -> Manifest:
        return replace(manifest, engines=(*manifest.engines, replace(manifest.engines[0], flavour="tensorrt")))

    change(donor, both)
    line = "there are plans of both tensorrt and tensorrt-rtx; choose one, as with --flavour tensorrt"
    assert refit(bundle, donor) == line


def test_a_flavour_that_the_donor_lacks(bundle, donor):
    assert refit(bundle, donor, "--flavour", "tensorrt") == (
        f"there are no refittable plans of tensorrt; {BUILD} --flavour tensorrt --refittable`"
    )


def test_plans_that_are_there_already(bundle, donor):
    def own(manifest: Manifest) -> Manifest:
        return replace(manifest, engines=(engine(bundle, manifest.variants[NAME]),))

    change(bundle, own)
    place = f"engines/tensorrt-rtx-sm89/{NAME}"
    assert refit(bundle, donor) == f"{bundle} has plans in {place} already; replace them with --force"
    (bundle / place / "decoder.plan").unlink()
    assert "already" not in refit(bundle, donor)


def test_a_donor_that_is_no_bundle(bundle, tmp_path):
    assert refit(bundle, tmp_path / "nowhere").startswith(f"{tmp_path / 'nowhere'} is not a bundle")
