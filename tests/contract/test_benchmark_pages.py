"""The README and the plots show what `benchmarks/results` holds."""

import json
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmark_scripts import BENCHMARKS, script

RESULTS = BENCHMARKS / "results"


CASES = ("greedy", "batch 8", "4 beams", "batch 8 x 4 beams", "encoder 512")


def contestant(seconds):
    return {"bytes": 2e9, "load_seconds": 1.0, "cases": {case: {"seconds": seconds} for case in CASES}}


def decode_record(cpu, **contestants):
    return {
        "date": "2026-01-01",
        "machine": {"cpu": cpu, "cores": 2, "instruction_sets": ["avx2"], "memory_gb": 8, "system": "Linux"},
        "versions": {"transformers": "5.23.0", "ctranslate2": "4.8.5", "onnxruntime": "1.32.0", "torch": "2.13.0"},
        "settings": {"threads": 2, "rounds": 5, "seconds": 2.0},
        "cases": {"greedy": {"batch": 1, "source": 64, "new_tokens": 32, "beams": 1}},
        "contestants": {"transformers float32": contestant(1.5), **contestants},
        "roofline": {
            "bytes_a_second": {"1000": 4e10, "2000": 2e10},
            "operations_a_second": {"float32": 2e11},
            "least_seconds": {"fused-float32": dict.fromkeys(CASES, 0.6)},
        },
        "equal_tokens": {"fused-float32": {"greedy": [32, 32], "batch 8": [1000, 1024]}},
    }


def growth_record(cpu):
    sizes = {"experts": {"8": 0.01, "128": 0.011}, "rows": {"1": 0.01, "32": 0.002}}
    return {"machine": {"cpu": cpu}, "settings": {"variant": "fused-int8"}, "seconds": sizes}


@pytest.fixture
def pages(tmp_path):
    """A README with markers, and measurements of two machines."""
    common = {key: value for key, value in decode_record("Intel(R) Xeon(R) CPU @ 2.1GHz").items() if key in (
        "date", "machine", "versions"
    )}  # fmt: skip
    export = {"model_bytes": 8e9, "peak_bytes": 9e8, "anonymous_peak_bytes": 6e8, "seconds": 99.0}
    peer = {"ctranslate2 int8": contestant(0.25)}
    records = {
        "decode-epyc": decode_record("AMD EPYC", **{"fused-float32": contestant(0.75)}),
        "decode-xeon": decode_record("Intel(R) Xeon(R) CPU @ 2.1GHz", **peer, **{"fused-float32": contestant(0.5)}),
        "export_memory": {**common, "exports": {"8GB-by-blocks": export}},
    }
    for name, record in records.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- benchmarks:begin -->\nold\n<!-- benchmarks:end -->\nafter\n")
    return readme


def render(readme: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    folders = ("--readme", readme, "--results", readme.parent, "--plots", readme.parent)
    return script("render", *folders, *arguments)


def test_the_readme_shows_the_measurements():
    if not any(RESULTS.glob("*.json")):
        pytest.skip("nothing has been measured yet: benchmarks/results is empty")
    checked = script("render", "--check")
    assert checked.returncode == 0, checked.stderr


def test_rendering_keeps_what_is_around_the_table(pages):
    assert render(pages).returncode == 0
    text = pages.read_text()
    assert text.startswith("before\n<!-- benchmarks:begin -->\n|")
    assert text.endswith("\n<!-- benchmarks:end -->\nafter\n")
    assert "| 8.0 GB | 0.90 GB | 0.60 GB | 99 s |" in text


def test_machines_stand_side_by_side_as_ratios(pages):
    render(pages)
    text = pages.read_text()
    assert "\n| AMD EPYC / Intel Xeon | greedy |" in text
    assert "\n| transformers 5.23.0, float32 | 1.50 s / 1.50 s |" in text
    assert "\n| **Pointsman, fused-float32** | 2.0× / 3.0× |" in text
    assert "\n| ctranslate2 4.8.5, int8, dense T5 | – / 6.0× |" in text
    assert "\n| *roofline of fused-float32* | 2.5× / 2.5× |" in text
    assert text.count("memory gives 20 GB/s") == 2
    assert "1,032 of 1,056 tokens of float32 variants" in text.replace("\n", " ")


def test_plots_show_what_was_measured(pages):
    """As documents of their own, in which each bar says of which machine it is."""
    render(pages)
    speed = ElementTree.parse(pages.parent / "speed.svg").getroot()
    assert speed.tag == "{http://www.w3.org/2000/svg}svg"
    titles = [title.text for title in speed.iter("{http://www.w3.org/2000/svg}title")]
    assert titles.count("AMD EPYC: 2.00") == titles.count("Intel Xeon: 3.00") == len(CASES)
    assert not (pages.parent / "growth.svg").exists()
    for name, cpu in {"epyc": "AMD EPYC", "xeon": "Intel Xeon"}.items():
        (pages.parent / f"growth-{name}.json").write_text(json.dumps(growth_record(cpu)))
    render(pages)
    growth = ElementTree.parse(pages.parent / "growth.svg").getroot()
    titles = [title.text for title in growth.iter("{http://www.w3.org/2000/svg}title")]
    assert {"AMD EPYC, fused-int8, 128: 11", "Intel Xeon, fused-int8, 32: 2"} <= set(titles)


def test_check_tells_stale_from_fresh_and_writes_nothing(pages):
    stale = pages.read_text()
    assert render(pages, "--check").returncode == 1
    assert pages.read_text() == stale
    render(pages)
    assert render(pages, "--check").returncode == 0


@pytest.mark.parametrize("marker", ["<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"])
def test_a_readme_without_markers(pages, marker):
    pages.write_text(pages.read_text().replace(marker, ""))
    failed = render(pages)
    assert failed.returncode == 1
    assert "put both where the table belongs" in failed.stderr


def test_results_that_are_not_there(pages):
    for path in pages.parent.glob("decode-*.json"):
        path.unlink()
    failed = render(pages)
    assert failed.returncode == 1
    assert "run python benchmarks/decode.py first" in failed.stderr
