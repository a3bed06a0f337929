"""How long it takes to calibrate a model of switch-base-8's size on 128 documents of 512 tokens, and in what memory.

The bundle is quantized as users do it (`pointsman-calib quantize --corpus`), in a process of its own whose memory is
watched from outside. Its weights are random, so nearly every label is a close call. `--min-agreement` says what has to
be reached: in int8 so much that layers are ranked and some are kept; in int4 nothing, since no choice of layers reaches
half of that with such weights. Exit code 1 says that it took too long.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import measurements
from measurements import BUILD, RESULTS, Bar
from pointsman.bundle import names
from prepared import CALIBRATOR, prepared_bundle, prepared_checkpoint
from watched import Watched, watch

TEXT: Final = Path(__file__).parents[1] / "examples" / "data" / "train.txt"
DOCUMENTS, WORDS = 128, 1200  # more than 568 tokens of any vocabulary, of which 512 are left by blanks
MOST_MINUTES: Final = 30.0
LEAST_AGREEMENT: Final = {"int8": 40.0, "int4": 0.0}  # percent of tokens


def write_corpus(path: Path, documents: int) -> None:
    """Write so many long texts, each with other words first."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts(documents))


def texts(documents: int) -> Iterator[str]:
    """Words of the example's text, round and round."""
    words = TEXT.read_text(encoding="utf-8").split()
    for start in range(documents):
        place = start * len(words) // documents
        yield " ".join((words[place:] + words * (1 + WORDS // len(words)))[:WORDS])


def calibrated(bundle: Path, scheme: str, corpus: Path, documents: int, limits: Sequence[str]) -> Watched:
    """Calibrate a bundle under watch."""
    print(f"{scheme}: calibrating", file=sys.stderr, flush=True)
    options = ["--corpus", str(corpus), "--documents", str(documents), "--too-long", "cut", "--force", *limits]
    watched = watch([CALIBRATOR, "quantize", str(bundle), "--scheme", scheme, *options], lambda: "quantize")
    if watched.exit_code:
        sys.exit(f"{scheme}: pointsman-calib ended with {watched.exit_code}")
    return watched


def what_was_kept(bundle: Path, scheme: str) -> dict[str, Any]:
    """From the bundle's manifest."""
    manifest = json.loads((bundle / names.MANIFEST).read_text(encoding="utf-8"))
    found: dict[str, Any] = manifest["variants"][f"fused-{scheme}"]["quantization"]["sensitivity"]
    return {
        "reached": found["reached"],
        "ranked": len(found["costs"]),
        "fine_inputs": len(found["fine_inputs"]),
        "float_weights": len(found["float_weights"]),
    }


def main() -> int:
    parsed = _parser().parse_args()
    started = measurements.begin()
    shape, documents = ("tiny", 4) if parsed.quick else ("switch-base-8", parsed.documents)
    prepared = prepared_bundle(BUILD, prepared_checkpoint(BUILD, shape), forms="fused")
    bundle, corpus = parsed.folder / "bundle", parsed.folder / "corpus.jsonl"
    shutil.rmtree(parsed.folder, ignore_errors=True)
    runs: dict[str, dict[str, Any]] = {}
    try:
        shutil.copytree(prepared, bundle, copy_function=os.link)  # files are replaced, and never changed
        write_corpus(corpus, documents)
        for scheme in parsed.scheme:
            least = LEAST_AGREEMENT[scheme] if parsed.min_agreement is None else parsed.min_agreement
            limits = ("--max-loss-increase", "1000", "--min-expert-agreement", "0", "--min-agreement", str(least))
            watched = calibrated(bundle, scheme, corpus, documents, limits)
            runs[scheme] = {
                "limits": limits,
                "minutes": round(watched.seconds / 60, 2),
                "peak_bytes": watched.peak_bytes,
                "anonymous_peak_bytes": watched.anonymous_peak_bytes,
                **what_was_kept(bundle, scheme),
            }
    finally:
        shutil.rmtree(parsed.folder, ignore_errors=True)
    rows = [
        [scheme, f"{run['minutes']:.1f}", f"{run['peak_bytes'] / 1e9:.2f}", str(run["ranked"]), str(run["fine_inputs"])]
        for scheme, run in runs.items()
    ]
    measurements.print_table([f"{documents} documents", "minutes", "peak GB", "layers ranked", "fine inputs"], rows)
    promised = [] if parsed.quick or documents < DOCUMENTS else [bar(scheme, run) for scheme, run in runs.items()]
    body = {
        "settings": {"shape": shape, "documents": documents},
        "runs": runs,
        "bars": [promise.to_json() for promise in promised],
    }
    default = (BUILD / "quick" if parsed.quick else RESULTS) / "calibration.json"
    measurements.write(parsed.output or default, started, body)
    return 0 if measurements.print_bars(promised) else 1


def bar(scheme: str, run: dict[str, Any]) -> Bar:
    """What is promised of a scheme."""
    return Bar(f"minutes of {scheme}", run["minutes"], MOST_MINUTES, at_least=False)


def _parser() -> argparse.ArgumentParser:
    parser = measurements.parser("Measure how long calibrating takes. Needs 8 GB of disk.", folder="calibration")
    parser.add_argument("--scheme", nargs="+", choices=("int8", "int4"), default=["int8", "int4"])
    parser.add_argument("--documents", type=int, default=DOCUMENTS, help=f"how many (default: {DOCUMENTS})")
    parser.add_argument(
        "--min-agreement",
        type=float,
        metavar="PERCENT",
        help="of tokens; 0 ranks nothing (default: 40 in int8, 0 in int4)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
