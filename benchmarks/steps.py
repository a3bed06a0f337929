"""What a decoder step costs by the number of rows that share it, and encoding by the number of inputs.

A bundle's variant is stepped on the CPU with random tokens: the rows of one request, with 64 tokens in each input.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np

import measurements
from pointsman import SwitchModel
from pointsman.backends.base import Source
from pointsman.decoding import Feed

ROWS = (1, 2, 4, 8, 16, 32, 64)
SOURCE, WARM_UPS, STEPS = 64, 3, 13


def measure(
    model: SwitchModel, rows: int, *, source: int = SOURCE, new_tokens: int = WARM_UPS + STEPS
) -> tuple[float, float]:
    """Seconds of encoding so many inputs together, and of a step of as many rows.

    Args:
        model: loaded for the CPU.
        rows: of one request.
        source: tokens of each input.
        new_tokens: steps that are made; the median of the last `STEPS` is given.
    """
    stepper, generator = model.backend.stepper(), np.random.default_rng(0)
    known = model.manifest.architecture.vocab_size
    ids = generator.integers(2, known, (rows, source))
    began = time.perf_counter()
    (own,) = stepper.encode([Source(ids, np.ones_like(ids), rows, new_tokens)], 0)
    encoding = time.perf_counter() - began
    seconds = []
    for _ in range(new_tokens):
        feed = Feed(generator.integers(2, known, rows), np.arange(rows))
        began = time.perf_counter()
        stepper.step([(own, feed)])
        seconds.append(time.perf_counter() - began)
    stepper.release(own)
    return encoding, median(seconds[-STEPS:])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="Measure what a step costs by the rows that share it.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant", default="auto", help="of the bundle (default: auto)")
    parsed = parser.parse_args()
    model = SwitchModel.load(parsed.bundle, "cpu", parsed.variant)
    lines = []
    for rows in ROWS:
        encoding, step = (1e3 * seconds for seconds in measure(model, rows))
        lines.append([str(rows), f"{step:.1f}", f"{step / rows:.2f}", f"{encoding / rows:.1f}"])
    measurements.print_table(["rows", "ms a step", "ms a row", "ms to encode each"], lines)


if __name__ == "__main__":
    main()
