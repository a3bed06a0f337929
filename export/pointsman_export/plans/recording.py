"""Plans into a bundle: files first, then their records, so that a record never speaks of a file that is not there."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from pointsman.bundle import FileRecord, Manifest, PlanRecord, read_manifest, record_of, write_manifest
from pointsman.bundle.writing import one_at_a_time, replacing


def usable(bundle: Path, manifest: Manifest) -> list[PlanRecord]:
    """Records of plans that are not out of date and whose files are there."""
    current = (plan for plan in manifest.engines if manifest.is_current(plan))
    return [plan for plan in current if (bundle / plan.file.path).is_file()]


@contextlib.contextmanager
def replacing_plans(bundle: Path, folder: str) -> Iterator[Path]:
    """A folder to write plans in, as `replacing` gives it; folders made above it go too where it does not appear.

    Raises:
        OutputError: the disk is full or refuses.
    """
    target = bundle / folder
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        with replacing(target) as partial:
            yield partial
    finally:
        for parent in made:
            with contextlib.suppress(OSError):  # it is not empty
                parent.rmdir()


def write_plan(plan: memoryview, place: Path, name: str, final: str) -> FileRecord:
    """Write a plan into the folder `place`, which will be `final` in the bundle; its hash is that of what was written.

    Raises:
        OSError: it cannot be written.
    """
    path = place / name
    path.write_bytes(plan)
    return replace(record_of(place, path), path=f"{final}/{name}")


def forget(bundle: Path, plans: Iterable[PlanRecord]) -> None:
    """Take records out of the manifest, before their files are replaced."""
    keys = {plan.key for plan in plans}
    with one_at_a_time(bundle):
        manifest = read_manifest(bundle)
        kept = tuple(plan for plan in manifest.engines if plan.key not in keys)
        if kept != manifest.engines:
            write_manifest(replace(manifest, engines=kept), bundle)


def record(bundle: Path, plans: Iterable[PlanRecord]) -> None:
    """Put records into the manifest as it is now, in a lasting order."""
    with one_at_a_time(bundle):
        manifest = read_manifest(bundle)
        all_of_them = {plan.key: plan for plan in (*manifest.engines, *plans)}
        ordered = tuple(all_of_them[key] for key in sorted(all_of_them))
        write_manifest(replace(manifest, engines=ordered), bundle)
