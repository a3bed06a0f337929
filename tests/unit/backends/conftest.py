"""A small bundle with plans of the stand-in, and models that run them."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pointsman import SwitchModel
from pointsman.backends.choice import Choice
from pointsman.backends.tensorrt import opening
from pointsman.bundle import (
    ROLES,
    AxisRange,
    Manifest,
    PlanOptions,
    PlanRecord,
    Profile,
    names,
    read_manifest,
    record_of,
    write_manifest,
)
from unit.backends.host_device import HostDevice
from unit.backends.host_tensorrt import HostTensorRT, plan_bytes

VARIANT = "portable-float32"
OPTIONS = PlanOptions(weight_streaming=False, refittable=False, version_compatible=False)


def profile(name: Any, rows: int, source: int = 64, capacity: int = 128) -> Profile:
    """From one row of one token on."""
    most = {"rows": rows, "batch": rows, "width": rows, "positions": 1, "source": source, "capacity": capacity}
    axes = {axis: AxisRange(min=size if axis == "capacity" else 1, opt=size, max=size) for axis, size in most.items()}
    return Profile(name=name, axes=axes)


PROFILES = (profile("one-row", 1), profile("full", 12))


@dataclass
class Hosted:
    """A bundle whose plans the host runs."""

    folder: Path
    device: HostDevice
    library: HostTensorRT

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.folder)

    def change(self, **changes: Any) -> None:
        """Change the records of both plans."""
        manifest = self.manifest
        engines = tuple(replace(plan, **changes) for plan in manifest.engines)
        write_manifest(replace(manifest, engines=engines), self.folder)

    def rewrite(self, role: str, content: bytes) -> None:
        """Put other bytes into a plan, and record them."""
        manifest = self.manifest
        (old,) = (plan for plan in manifest.engines if plan.role == role)
        (self.folder / old.file.path).write_bytes(content)
        new = replace(old, file=record_of(self.folder, self.folder / old.file.path))
        engines = tuple(new if plan == old else plan for plan in manifest.engines)
        write_manifest(replace(manifest, engines=engines), self.folder)

    def model(self) -> SwitchModel:
        backend = opening.open_plans(self.folder, self.manifest, "tensorrt", VARIANT, device=self.device)
        return SwitchModel(self.manifest, Choice(VARIANT, "cuda", "it is a test"), backend)


@pytest.fixture(scope="session")
def exported(exports) -> Path:
    folder: Path = exports("tied", "portable").folder
    return folder


@pytest.fixture
def hosted(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosted:
    folder = tmp_path / "bundle"
    shutil.copytree(exported, folder)
    device = HostDevice()
    library = HostTensorRT(device)
    monkeypatch.setattr(opening, "library_for", lambda record: library)
    write_engines(folder, PROFILES)
    return Hosted(folder, device, library)


def write_engines(folder: Path, profiles: tuple[Profile, ...]) -> None:
    """Build both plans of the stand-in, and record them."""
    manifest = read_manifest(folder)
    variant = manifest.variants[VARIANT]
    engines = []
    for role in ROLES:
        graph = variant.graph_of_one_position(role)
        place = folder / names.plan_folder("tensorrt", "8.9", VARIANT) / f"{role}.plan"
        place.parent.mkdir(parents=True, exist_ok=True)
        axes = {axis for spec in graph.inputs for axis in spec.axes if isinstance(axis, str)}
        own = tuple(
            replace(each, axes={name: size for name, size in each.axes.items() if name in axes}) for each in profiles
        )
        place.write_bytes(plan_bytes(folder / graph.file, graph, own))
        engines.append(
            PlanRecord(
                flavour="tensorrt",
                version="1.0",
                compute_capability="8.9",
                variant=VARIANT,
                role=role,
                built_from=variant.sources(role),
                profiles=own,
                options=OPTIONS,
                file=record_of(folder, place),
                build_seconds=0.1,
            )
        )
    write_manifest(replace(manifest, engines=tuple(engines)), folder)
