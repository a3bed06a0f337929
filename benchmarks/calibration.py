"""How long it takes to calibrate a model of switch-base-8's size on 128 documents of 512 tokens, and in what memory.

The bundle is quantized as users do it (`pointsman-calib quantize --corpus`), in a process of its own whose memory is
watched from outside. Its weights are random, so nearly every label is a close call. `--min-agreement` says what has to
be reached: in int8 so much that layers are ranked and some are kept; in int4 nothing, since no choice of layers reaches
half of that with such weights. Exit code 1 says that it took too long.

`--device cuda` runs the text on this machine's GPU; what was measured lies in a file of the GPU's name, where runs of
the other scheme stay if they are of the same GPU, versions and documents. `--quick --device cuda` calibrates the demo
model on the CPU and on the GPU and compares (`calibration_agreement.py`); exit code 1 says that they do not agree, 2
that there is no GPU.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import calibration_agreement
import measurements
from contestants.job import Device
from gpu import DEMO_MODEL, describe_gpu, file_name
from measurements import BUILD, RESULTS, Bar
from pointsman.backends.gpu.cuda import CudaDevice
from pointsman.bundle import names
from pointsman.errors import DeviceError
from pointsman_calib import Corpus
from prepared import CALIBRATOR, prepared_bundle, prepared_checkpoint
from watched import Watched, watch

DATA: Final = Path(__file__).parents[1] / "examples" / "data"
TEXT, DEMO_TEXT = DATA / "train.txt", DATA / "c4-sample-train.json.gz"
DOCUMENTS, WORDS = 128, 1200  # more than 568 tokens of any vocabulary, of which 512 are left by blanks
MOST_MINUTES: Final[dict[Device, float]] = {"cpu": 30.0, "cuda": 10.0}
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


def calibrated(
    bundle: Path, scheme: str, corpus: Path, documents: int, limits: Sequence[str], device: Device
) -> Watched:
    """Calibrate a bundle under watch."""
    print(f"{scheme}: calibrating", file=sys.stderr, flush=True)
    options = ["--corpus", str(corpus), "--documents", str(documents), "--too-long", "cut", "--force", *limits]
    options += ["--device", device]
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


def main(find_gpu: Callable[[], CudaDevice] = CudaDevice) -> int:
    parsed = _parser().parse_args()
    try:
        gpu = None if parsed.device == "cpu" else describe_gpu(find_gpu())
    except DeviceError as error:
        print(f"calibration: {error}", file=sys.stderr)
        return 2
    started = measurements.begin() | ({} if gpu is None else {"gpu": gpu})
    name = "calibration" if gpu is None else f"calibration-{file_name(gpu['name'])}"
    output = parsed.output or (BUILD / "quick" if parsed.quick else RESULTS) / f"{name}.json"
    if gpu is not None and parsed.quick:
        return compare_devices(output, started, parsed.device)
    shape, documents = ("tiny", 4) if parsed.quick else ("switch-base-8", parsed.documents)
    settings = {"shape": shape, "documents": documents, "device": parsed.device}
    runs = measured(parsed, shape, documents)
    rows = [
        [scheme, f"{run['minutes']:.1f}", f"{run['peak_bytes'] / 1e9:.2f}", str(run["ranked"]), str(run["fine_inputs"])]
        for scheme, run in runs.items()
    ]
    measurements.print_table([f"{documents} documents", "minutes", "peak GB", "layers ranked", "fine inputs"], rows)
    is_whole = not parsed.quick and documents >= DOCUMENTS
    promised = [bar(scheme, run, parsed.device) for scheme, run in runs.items()] if is_whole else []
    if gpu is not None:
        runs = other_runs(output, started, settings) | runs
    bars = [bar(scheme, run, parsed.device).to_json() for scheme, run in runs.items()] if is_whole else []
    measurements.write(output, started, {"settings": settings, "runs": runs, "bars": bars})
    return 0 if measurements.print_bars(promised) else 1


def measured(parsed: argparse.Namespace, shape: str, documents: int) -> dict[str, dict[str, Any]]:
    """What each scheme took."""
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
            watched = calibrated(bundle, scheme, corpus, documents, limits, parsed.device)
            runs[scheme] = {
                "limits": limits,
                "minutes": round(watched.seconds / 60, 2),
                "peak_bytes": watched.peak_bytes,
                "anonymous_peak_bytes": watched.anonymous_peak_bytes,
                **what_was_kept(bundle, scheme),
            }
    finally:
        shutil.rmtree(parsed.folder, ignore_errors=True)
    return runs


def compare_devices(output: Path, started: dict[str, Any], device: Device) -> int:
    """Calibrate the demo model on the CPU and on the GPU."""
    bundle = prepared_bundle(BUILD, DEMO_MODEL, forms="both")
    corpus = Corpus.read(bundle, [DEMO_TEXT], documents=calibration_agreement.DOCUMENTS)
    found = calibration_agreement.agreement(bundle, corpus, device)
    measurements.write(output, started, {"agreement": found})
    return 0 if calibration_agreement.print_agreement(found) else 1


def other_runs(output: Path, started: dict[str, Any], settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of a file that is there, the runs, where they were made with the same as these."""
    if not output.exists():
        return {}
    there = json.loads(output.read_text(encoding="utf-8"))
    same = all(there.get(part) == started[part] for part in ("gpu", "versions")) and there["settings"] == settings
    runs: dict[str, dict[str, Any]] = there["runs"] if same else {}
    return runs


def bar(scheme: str, run: dict[str, Any], device: Device) -> Bar:
    """What is promised of a scheme."""
    return Bar(f"minutes of {scheme}", run["minutes"], MOST_MINUTES[device], at_least=False)


def _parser() -> argparse.ArgumentParser:
    parser = measurements.parser("Measure how long calibrating takes. Needs 8 GB of disk.", folder="calibration")
    parser.add_argument("--scheme", nargs="+", choices=("int8", "int4"), default=["int8", "int4"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where text is run (default: cpu)")
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
