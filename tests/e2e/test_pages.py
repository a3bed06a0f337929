"""The pages under docs/: their examples run, their links lead somewhere, their figures are those that were measured."""

import ast
import json
import re
import shutil
import statistics
from collections.abc import Iterator
from functools import cache

import pytest

from e2e.pages import PAGES, examples, follow
from places import ROOT

HERE = (
    "calibration",
    "fine_tuned",
    "kernels",
    "large",
    "memory",
    "models",
    "performance",
    "quickstarts",
    "troubleshooting",
    "upgrading",
    "variants",
)
RUN_BY_OTHERS = {"batch", "checkpoints", "concurrency", "deployment", "python", "serving"}
NOT_RUN = {"gpu", "testing"}  # needs a GPU; would run this
MOST_LINES = 150
RESULTS = ROOT / "benchmarks/results"
CASES = ("greedy", "batch 8", "4 beams", "encoder 512")
GPU_CASES = {"greedy": 32, "batch 8": 32, "batch 32": 32, "4 beams": 32, "encoder 512": 1}  # steps


def test_every_page_with_examples_is_run():
    with_examples = {name for name, page in PAGES.items() if examples(page)}
    assert with_examples == {name for name in HERE if examples(PAGES[name])} | RUN_BY_OTHERS | NOT_RUN


@pytest.mark.parametrize("name", [name for name in HERE if examples(PAGES[name])])
def test_examples(name, demo, tmp_path):
    shutil.copytree(demo / "build", tmp_path / "build")
    follow(PAGES[name], tmp_path)


@pytest.mark.parametrize("name", [*HERE, "deployment", "ray", "serving"])
def test_pages_are_short(name):
    assert PAGES[name].count("\n") < MOST_LINES


@pytest.mark.parametrize("name", [*PAGES, "SECURITY"])
def test_links_lead_somewhere(name):
    path = ROOT / f"docs/{name}.md" if name in PAGES else ROOT / f"{name}.md"
    for place, heading in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", path.read_text(encoding="utf-8")):
        target = path.parent / place if place else path
        assert target.exists(), place
        if heading:
            assert heading in anchors(target.read_text(encoding="utf-8")), f"{place}#{heading}"


def anchors(text: str) -> set[str]:
    """Of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("line", re.findall(r"^\| `(.+?)` \|", PAGES["troubleshooting"], re.MULTILINE))
def test_lines_that_need_another_machine_are_those_of_the_program(line):
    assert any(line in sentence for sentence in sentences())


@cache
def sentences() -> list[str]:
    """Every string of the three packages, with `…` for what is put into it."""
    paths = [path for folder in ("runtime", "export", "calib") for path in (ROOT / folder).rglob("*.py")]
    return [text for path in paths for text in strings(ast.parse(path.read_text(encoding="utf-8")))]


def strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)


@pytest.mark.parametrize("variant", ["fused-float32", "fused-int8", "fused-int4"])
def test_figures_of_variants_on_a_cpu(variant):
    run = json.loads((RESULTS / "decode-xeon-avx512_vnni-amx.json").read_text(encoding="utf-8"))["contestants"][variant]
    disk, peak, over = (
        f"{size / 1e9:.2f} GB" for size in (run["bytes"], run["peak_bytes"], run["peak_bytes"] - run["bytes"])
    )
    times = " | ".join(f"{run['cases'][case]['seconds']:.2f} s" for case in CASES)
    assert f"\n| `{variant}` | {disk} | {times} | {run['load_seconds']:.1f} s | {peak} |\n" in PAGES["variants"]
    assert f"\n| `{variant}` | {disk} | {peak} | {over} |\n" in PAGES["memory"]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("products-*.json")), ids=lambda path: path.stem)
def test_figures_of_products_alone(path):
    bounds = json.loads(path.read_text(encoding="utf-8"))["bounds"]
    missed = [row for row in bounds if row["measured"] < row["promised"]]
    assert missed
    for row in missed:
        figures = (f"{row[column]:.2f}" for column in ("promised", "measured", "products_alone"))
        name = f"`{row['variant']}` beside {row['beside']}, {row['case']}"
        assert f"\n| {' | '.join([name, *figures])} |\n" in PAGES["kernels"]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("serving-*.json")), ids=lambda path: path.stem)
def test_figures_of_the_service_under_load(path):
    contestants = json.loads(path.read_text(encoding="utf-8"))["contestants"]
    rows = ["service", "lock around `Infiller.infill`", "wrapper around `transformers.generate`"]
    for row, loads in zip(rows, contestants.values(), strict=True):
        assert [load["clients"] for load in loads] == [1, 4, 16, 64]
        figures = " | ".join(f"{load['answers_a_second']:.1f}" for load in loads)
        assert f"\n| {row} | {figures} |\n" in PAGES["deployment"]


def test_figures_of_models_larger_than_memory():
    models = json.loads((RESULTS / "large.json").read_text(encoding="utf-8"))["models"]
    assert models
    for model, measured in models.items():
        for name, run in measured["runs"].items():
            limit = f"{run['max_memory'] / 1e9:.2f} GB" if name == "limited" else ""
            rates = (f"{run[f'{what}_tokens_per_second']:.0f}" for what in ("cold", "warm"))
            firsts = (f"{run[f'{what}_first_token_seconds']:.2f} s" for what in ("cold", "warm"))
            sizes = (f"{run[what] / 1e9:.2f} GB" for what in ("anonymous_peak_bytes", "peak_bytes"))
            cells = [f"{model}, {name}", limit, f"{run['load_seconds']:.1f} s", *rates, *firsts, *sizes]
            assert f"\n| {' | '.join(cells)} |\n" in PAGES["large"]


@pytest.mark.parametrize("variant", ["portable-bfloat16", "portable-float32"])
def test_figures_of_variants_on_a_gpu(variant):
    results = json.loads((RESULTS / "nvidia-h200.json").read_text(encoding="utf-8"))["contestants"]
    cases = results[f"onnxruntime {variant}"]["cases"]
    (row,) = re.findall(rf"^\| `{variant}` \| (.+ ms a token .+) \|$", PAGES["variants"], re.MULTILINE)
    found = [float(re.findall(r"[\d.]+", cell)[0]) for cell in row.split("|")]
    measured = [1000 * statistics.median(cases[case]["seconds"]) / steps for case, steps in GPU_CASES.items()]
    assert found == pytest.approx(measured, abs=0.006)
