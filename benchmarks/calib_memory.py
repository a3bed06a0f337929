"""Memory that quantizing takes: for bundles of 2 GB and of 8 GB, and for 100 documents and 800.

Each bundle is quantized as users do it (`pointsman-calib quantize --scheme int8`) in a process of its own whose memory
is watched from outside. With `--corpus`, bundles are calibrated on a few documents of it, a full batch, and the demo
model on 100 and on 800: the peak must not grow with them. Exit code 1 says that a promise about a peak is not kept.

Two options make large bundles a matter of minutes without sparing them memory: limits that hold at once, since ranking
layers only repeats the run that judges; and GPTQ for no more than the experts that are asked for most, as they are
rounded one after another.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measurements
from measurements import BUILD, RESULTS, Bar
from prepared import CALIBRATOR, EXPORTER
from shapes import SHAPES, total_bytes, write_checkpoint
from watched import Watched, watch

SMALL, LARGE = "2GB-by-blocks", "8GB-by-blocks"
DEMO_MODEL = Path(__file__).parents[1] / "examples" / "demo_model"
FEW, MANY = 100, 800
BATCH = 8  # documents that are run together
LIMITLESS = ("--max-loss-increase", "1000", "--min-agreement", "0", "--min-expert-agreement", "0")
SHORTENED = (*LIMITLESS, "--min-expert-tokens", "400")
MOST_GB, MOST_GROWTH = 1.5, 1.10


def quantized(shape: str, corpus: Sequence[str], folder: Path) -> Watched:
    """Write a checkpoint, export it, quantize the bundle, for a corpus if there is one, and remove all."""
    checkpoint, bundle = folder / shape, folder / f"{shape}-bundle"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        write_checkpoint(checkpoint, SHAPES[shape])
        export(checkpoint, bundle)
        shutil.rmtree(checkpoint)
        options = (*on_documents(corpus, BATCH), *SHORTENED) if corpus else ()
        return watched_run(bundle, shape, *options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def calibrated(corpus: Sequence[str], counts: Sequence[int], folder: Path) -> dict[int, Watched]:
    """Calibrate the demo model on so many documents of a corpus."""
    bundle = folder / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        export(DEMO_MODEL, bundle)
        return {
            count: watched_run(bundle, f"{count} documents", "--force", *on_documents(corpus, count))
            for count in counts
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def on_documents(corpus: Sequence[str], count: int) -> tuple[str, ...]:
    """Options that calibrate on so many documents; longer ones are cut, so that all are used."""
    return ("--too-long", "cut", "--corpus", *corpus, "--documents", str(count))


def export(checkpoint: Path, bundle: Path) -> None:
    """Export the fused form."""
    print(f"{bundle.name}: exporting", file=sys.stderr, flush=True)
    subprocess.run([EXPORTER, "bundle", str(checkpoint), "-o", str(bundle), "--form", "fused"], check=True)


def watched_run(bundle: Path, what: str, *options: str) -> Watched:
    """Quantize a bundle to int8 under watch."""
    print(f"{what}: quantizing", file=sys.stderr, flush=True)
    watched = watch([CALIBRATOR, "quantize", str(bundle), "--scheme", "int8", *options], lambda: "quantize")
    if watched.exit_code:
        raise subprocess.CalledProcessError(watched.exit_code, CALIBRATOR)
    return watched


def bars(bundles: dict[str, Watched], documents: dict[int, Watched]) -> list[Bar]:
    """What is promised: the large bundle's peak, and that documents do not decide a peak."""
    found = [Bar("peak of the large bundle, GB", bundles[LARGE].peak_bytes / 1e9, MOST_GB, at_least=False)]
    if documents:
        growth = documents[MANY].peak_bytes / documents[FEW].peak_bytes
        found.append(Bar(f"peak of {MANY} documents over that of {FEW}", growth, MOST_GROWTH, at_least=False))
    return found


def to_json(watched: Watched) -> dict[str, Any]:
    """Peaks in bytes, time in seconds."""
    return {
        "seconds": round(watched.seconds, 2),
        "peak_bytes": watched.peak_bytes,
        "anonymous_peak_bytes": watched.anonymous_peak_bytes,
    }


def print_report(runs: dict[str, Watched]) -> None:
    """Print time and peaks."""
    rows = [
        [name, f"{run.seconds:.0f}", f"{run.peak_bytes / 1e9:.2f}", f"{run.anonymous_peak_bytes / 1e9:.2f}"]
        for name, run in runs.items()
    ]
    measurements.print_table(["quantizing", "s", "peak GB", "anonymous peak GB"], rows)


def main() -> int:
    parsed = _parser().parse_args()
    started = measurements.begin()
    shapes = ("tiny",) if parsed.quick else (SMALL, LARGE)
    documents = {} if parsed.quick or not parsed.corpus else calibrated(parsed.corpus, (FEW, MANY), parsed.folder)
    bundles = {shape: quantized(shape, parsed.corpus, parsed.folder) for shape in shapes}
    promised = [] if parsed.quick else bars(bundles, documents)
    print_report({**bundles, **{f"{count} documents": run for count, run in documents.items()}})
    body = {
        "settings": {"documents": BATCH, "options": SHORTENED} if parsed.corpus else {},
        "bundles": {name: {"model_bytes": total_bytes(SHAPES[name]), **to_json(run)} for name, run in bundles.items()},
        "documents": {str(count): to_json(run) for count, run in documents.items()},
        "bars": [bar.to_json() for bar in promised],
    }
    default = (BUILD / "quick" if parsed.quick else RESULTS) / "calib_memory.json"
    measurements.write(parsed.output or default, started, body)
    return 0 if measurements.print_bars(promised) else 1


def _parser() -> argparse.ArgumentParser:
    parser = measurements.parser(
        "Measure the memory that quantizing takes. Needs 19 GB of disk.", folder="calib_memory"
    )
    parser.add_argument("--corpus", nargs="+", default=[], metavar="C4", help=f"files with at least {MANY} documents")
    return parser


if __name__ == "__main__":
    sys.exit(main())
