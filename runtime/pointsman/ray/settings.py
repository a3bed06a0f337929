"""What all shards of a folder have in common: what their fills follow from, however it was given."""

import secrets
from dataclasses import replace
from pathlib import Path
from typing import Final

from pointsman.backends.choice import choose
from pointsman.bundle import Manifest, read_manifest
from pointsman.infill.origin import content_of, options_of
from pointsman.ray.bundles import local_bundle
from pointsman.ray.resumable import settle, settled
from pointsman.ray.shards import Filling

_FORMAT: Final = 2  # the first had a bundle's name, and options only where they were given
_GIVEN: Final = ("column", "filled", "variant", "rows")
_OPTIONS: Final = "options"


def agreed(filling: Filling, folder: Path) -> tuple[Filling, str]:
    """Settle how the shards of a folder are made, or compare with how those that are there were.

    Args:
        filling: As it was asked for.
        folder: Where shards go; it is made where it is not there.

    Returns:
        The filling with the variant that `auto` stands for here, so that all actors take the same, and with a seed
        where texts are sampled; and what its bundle holds, as `content_of` says it.

    Raises:
        BundleError: There is no bundle, a damaged one, or one without the variant.
        DeviceError: There is nothing here to run it.
        OptionsError: The options of decoding cannot be.
        OutputError: As `settle`.
    """
    manifest = read_manifest(local_bundle(filling.bundle))
    filling = replace(filling, variant=choose(manifest, device="auto", variant=filling.variant).variant)
    filling = _with_seed(filling, manifest, folder)
    content = content_of(manifest, filling.variant)
    given = {name: getattr(filling, name) for name in _GIVEN}
    options = options_of(manifest, filling.fields)
    settle(folder, {"format": _FORMAT, "bundle": content, **given, _OPTIONS: options})
    return filling, content


def _with_seed(filling: Filling, manifest: Manifest, folder: Path) -> Filling:
    """With the seed of the run that has begun there, or a new one, where texts are sampled and none is given.

    Without it, shards of a later run would not be what the first would have made.
    """
    options = options_of(manifest, filling.fields)
    if not options["do_sample"] or options["seed"] is not None:
        return filling
    begun = settled(folder).get(_OPTIONS)
    seed = begun.get("seed") if isinstance(begun, dict) else None
    return replace(filling, fields={**filling.fields, "seed": secrets.randbits(32) if seed is None else seed})
