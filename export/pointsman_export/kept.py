"""What a bundle holds beside an export, when a new export takes its place: quantized variants, and plans.

They stay where what they were made from has come out the same, byte by byte. What would be lost is never lost unasked.
"""

import os
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pointsman.bundle import FileRecord, Manifest, PlanRecord, Variant, names, read_manifest
from pointsman.errors import BundleError, BundleNotFoundError, OutputExistsError
from pointsman.wording import first_few


@dataclass(frozen=True, slots=True)
class Replaced:
    """A bundle that an export replaces.

    Attributes:
        target: where it is.
        manifest: its own.
        discard: whether what is not right any more may be lost.
    """

    target: Path
    manifest: Manifest
    discard: bool

    @classmethod
    def at(cls, target: Path, *, discard: bool) -> "Replaced | None":
        """The bundle that is there; None where there is none, or one that nothing can be kept of.

        Raises:
            OutputExistsError: It cannot be read and holds more than an export, which may not be lost.
        """
        try:
            return cls(target, read_manifest(target), discard)
        except BundleNotFoundError:
            return None
        except BundleError as error:
            folders = [*(target / names.VARIANTS).glob("int*"), *(target / names.PLANS).glob("*")]
            if folders and not discard:
                held = first_few(sorted(folder.name for folder in folders))
                raise OutputExistsError(
                    f"{target} cannot be read ({error}) and holds what would be lost: {held}; add `discard=True`, or "
                    "choose another output folder"
                ) from error
            return None

    def check(self, variants: Collection[str]) -> None:
        """Find out before the export whether something is made from variants that it will not write.

        Args:
            variants: names of those that it will write.

        Raises:
            OutputExistsError: something is, and may not be lost.
        """
        orphans = [name for name, variant in self._quantized().items() if _source(variant) not in variants]
        self._refuse_loss([*orphans, *(_described(plan) for plan in self._plans_of(orphans))])

    def kept(self, fresh: Manifest, folder: Path) -> tuple[Manifest, list[str]]:
        """Take along what is still right.

        Args:
            fresh: what was exported.
            folder: where it is; files are linked there.

        Returns:
            The manifest of all, and what is not right any more and not taken along.

        Raises:
            OutputExistsError: something is not right any more, and may not be lost.
        """
        old = self.manifest
        quantized = self._quantized()
        variants = {
            name: variant
            for name, variant in quantized.items()
            if old.variants.get(_source(variant)) == fresh.variants.get(_source(variant))
        }
        merged = replace(fresh, variants=fresh.variants | variants)
        plans = [plan for plan in old.engines if fresh.limits == old.limits and merged.is_current(plan)]
        lost = [name for name in quantized if name not in variants]
        lost += [_described(plan) for plan in old.engines if plan not in plans]
        self._refuse_loss(lost)
        for precision in {variant.precision for variant in variants.values()}:
            place = names.variant_folder(precision)
            shutil.copytree(self.target / place, folder / place, copy_function=_linked)
        _link_files(self.target, folder, (plan.file for plan in plans))
        return replace(merged, engines=tuple(plans)), lost

    def _quantized(self) -> dict[str, Variant]:
        return {name: variant for name, variant in self.manifest.variants.items() if variant.quantization is not None}

    def _plans_of(self, variants: Collection[str]) -> list[PlanRecord]:
        return [plan for plan in self.manifest.engines if plan.variant in variants]

    def _refuse_loss(self, lost: list[str]) -> None:
        if lost and not self.discard:
            raise OutputExistsError(
                f"{self.target} holds what would be lost, since it does not fit what this export "
                f"writes: {first_few(lost)}; choose another output folder, or add `discard=True` and make it again"
            )


def _source(variant: Variant) -> str:
    return "" if variant.quantization is None else variant.quantization.source


def _described(plan: PlanRecord) -> str:
    return f"the {plan.role} plan of {plan.variant} for {plan.compute_capability}"


def _link_files(bundle: Path, folder: Path, files: Iterable[FileRecord]) -> None:
    for file in files:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        _linked(str(bundle / file.path), str(folder / file.path))


def _linked(source: str, target: str) -> None:
    """The same file under another name, or a copy where the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
