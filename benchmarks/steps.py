"""What a decoder step costs by the number of rows that share it, and encoding by the number of inputs.

A bundle's variant is stepped on the CPU with random tokens: the rows of one request, each of an input of its own.
"""

import argparse
import time
from collections.abc import Sequence
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
    model: SwitchModel, rows: int, *, source: Sequence[int] = (SOURCE,), new_tokens: int = WARM_UPS + STEPS
) -> tuple[float, float]:
    """Seconds of encoding so many inputs together, and of a step of as many rows.

    Args:
        model: loaded for the CPU.
        rows: of one request.
        source: tokens of each input; where there are fewer than inputs, they come again.
        new_tokens: steps that are made; the median of the last `STEPS` is given.
    """
    stepper, generator = model.backend.stepper(), np.random.default_rng(0)
    known = model.manifest.architecture.vocab_size
    lengths = np.resize(source, rows)
    ids = generator.integers(2, known, (rows, lengths.max()))
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    began = time.perf_counter()
    (own,) = stepper.encode([Source(ids * mask, mask, rows, new_tokens)], 0)
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
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="(default: 1 to 64)")
    parser.add_argument(
        "--source", type=int, nargs="+", default=[SOURCE], help="tokens of the inputs, one after another"
    )
    parsed = parser.parse_args()
    model = SwitchModel.load(parsed.bundle, "cpu", parsed.variant)
    lines = []
    for rows in parsed.rows:
        encoding, step = (1e3 * seconds for seconds in measure(model, rows, source=parsed.source))
        lines.append([str(rows), f"{step:.1f}", f"{step / rows:.2f}", f"{encoding / rows:.1f}"])
    measurements.print_table(["rows", "ms a step", "ms a row", "ms to encode each"], lines)


if __name__ == "__main__":
    main()
