"""The model that a command line names."""

import argparse

from pointsman.infill import Infiller
from pointsman_commands import at_once


def loaded(parsed: argparse.Namespace) -> Infiller:
    """Load it, as `add_bundle`, `--threads` and `add_max_memory` say.

    Raises:
        PointsmanError: As `Infiller.load`.
    """
    with at_once("pointsman"):
        return Infiller.load(
            parsed.bundle,
            parsed.device,
            parsed.variant,
            engine=parsed.engine,
            threads=parsed.threads,
            max_memory=parsed.max_memory,
        )
