"""The README shows what `benchmarks/results` holds, and the scripts that measure run."""

import json
import math
import subprocess
from pathlib import Path

import pytest

from benchmark_scripts import BENCHMARKS, script

RESULTS = BENCHMARKS / "results"
CASES = ("greedy", "batch 8", "4 beams", "encoder 512")


@pytest.fixture
def pages(tmp_path):
    """A README with markers, and measurements in which Pointsman takes half of the time."""

    def contestant(seconds):
        return {"bytes": 2e9, "load_seconds": 1.0, "cases": {case: {"seconds": seconds} for case in CASES}}

    common = {
        "date": "2026-01-01",
        "machine": {"cpu": "CPU", "cores": 2, "instruction_sets": ["avx2"], "memory_gb": 8, "system": "Linux"},
        "versions": {"transformers": "5.23.0", "onnxruntime": "1.32.0", "torch": "2.13.0"},
    }
    decode = {
        **common,
        "settings": {"threads": 2, "rounds": 5, "repeats": 3},
        "cases": {"greedy": {"batch": 1, "source": 64, "new_tokens": 32, "beams": 1}},
        "contestants": {
            "transformers": contestant(1.5),
            "fused-float32": contestant(0.75),
            "dense floor": contestant(0.7),
        },
        "roofline": {
            "bytes_a_second": 2e10,
            "operations_a_second": 2e11,
            "seconds": {"greedy": 0.6, "batch 8": 0.6, "4 beams": 0.6, "encoder 512": 0.5},
        },
        "equal_tokens": {"fused-float32": {"greedy": [32, 32], "batch 8": [1000, 1024]}},
    }
    export = {"model_bytes": 8e9, "peak_bytes": 9e8, "anonymous_peak_bytes": 6e8, "seconds": 99.0}
    for name, record in {"decode": decode, "export_memory": {**common, "exports": {"8GB-by-blocks": export}}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- benchmarks:begin -->\nold\n<!-- benchmarks:end -->\nafter\n")
    return readme


def render(readme: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return script("render", "--readme", readme, "--results", readme.parent, *arguments)


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
    assert "| **Pointsman, fused-float32** | 0.75 s (2.0×) |" in text
    assert "| 0.60 s (2.5×) | 0.60 s (2.5×) | 0.60 s (2.5×) | 0.50 s (3.0×) |  |  |" in text
    assert "at the 20 GB/s" in text
    assert "1,032 of 1,056 generated tokens are those of transformers" in text
    assert "| 8.0 GB | 0.90 GB | 0.60 GB | 99 s |" in text


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
    (pages.parent / "decode.json").unlink()
    failed = render(pages)
    assert failed.returncode == 1
    assert "run python benchmarks/decode.py first" in failed.stderr


@pytest.mark.parametrize(
    ("value", "at_least", "held"), [(2.3, True, True), (2.29, True, False), (1.2, False, True), (1.21, False, False)]
)
def test_bars(load, value, at_least, held):
    limit = 2.3 if at_least else 1.2
    assert load("measurements").Bar("", value, limit, at_least=at_least).held is held


def test_a_disturbed_round_does_not_move_the_median(load):
    rounds = [[1.0, 1.1, 1.2], [9.0, 9.1, 9.2], [1.0, 1.2, 1.3]]
    assert load("measurements").median_over_rounds(rounds) == 1.2


def test_time_inside_a_branch_is_counted_once(load):
    operators = load("operators")
    events = [
        operators.Event("model_run", "", 0, 100),
        operators.Event("if", "If", 10, 40),
        operators.Event("product", "MatMul", 15, 30),
        operators.Event("sum", "Add", 50, 20),
    ]
    assert {event.name: own for event, own in operators.own_times(events)} == {
        "model_run": 40,
        "if": 10,
        "product": 30,
        "sum": 20,
    }


def test_the_roofline_counts_what_a_request_reads(load):
    """Against a count by hand: every decoder weight once a token, of the experts one in eight."""
    shapes, roofline, cases = load("shapes"), load("roofline"), load("cases")
    routing = {"encoder_experts_hit": 8.0, "decoder_experts_hit": 1.0}
    square, wide, norm = 768 * 768, 2 * 768 * 3072, 768
    decoder = 12 * (6 * square + wide + 3 * norm) + 6 * 8 * 768 + 32 * 12 + norm + 32128 * 768
    encoder = 12 * (4 * square + 2 * norm) + 6 * (1 + 8) * wide + 6 * 8 * 768 + 32 * 12 + norm + 12 * 2 * square
    case, base = cases.Case("", new_tokens=3), shapes.SHAPES["switch-base-8"]
    assert roofline.request_bytes(base, case, routing) == 4 * (encoder + 3 * decoder)
    reads = roofline.Speeds(bytes_a_second=4.0, operations_a_second=math.inf)
    assert roofline.least_seconds(base, case, routing, reads) == encoder + 3 * decoder


def test_the_roofline_counts_what_a_request_multiplies(load):
    """By hand: every token meets each weight once, and one expert of a layer."""
    shapes, roofline, cases = load("shapes"), load("roofline"), load("cases")
    square, wide, norm = 768 * 768, 2 * 768 * 3072, 768
    encoder = 12 * (4 * square + 2 * norm + wide) + 6 * 8 * 768 + 32 * 12 + norm + 12 * 2 * square
    case = cases.Case("", batch=2, source=512, new_tokens=0)
    multiplies = roofline.Speeds(bytes_a_second=math.inf, operations_a_second=2.0)
    assert roofline.least_seconds(shapes.SHAPES["switch-base-8"], case, {}, multiplies) == 1024 * encoder
    measured = roofline.speeds(2)
    assert measured.bytes_a_second > 1e8
    assert measured.operations_a_second > 1e8


@pytest.mark.parametrize("shape", ["tiny", "tiny-dense"])
def test_synthetic_checkpoints_are_what_they_say(load, tmp_path, shape):
    from pointsman import Tokenizer
    from pointsman_export.architecture import derive_from
    from pointsman_export.checkpoint import Checkpoint

    shapes = load("shapes")
    shapes.write_checkpoint(tmp_path, shapes.SHAPES[shape], shard_bytes=1 << 20)
    assert len([*tmp_path.glob("*.safetensors")]) > 1
    with Checkpoint.open(tmp_path) as checkpoint:
        derivation = derive_from(checkpoint)
    assert derivation.architecture == shapes.SHAPES[shape]
    assert derivation.disagreements == ()
    Tokenizer.load(tmp_path).check_vocab_size(shapes.SHAPES[shape].vocab_size)


@pytest.mark.slow
def test_decode_runs_and_says_what_transformers_says(tmp_path):
    output = tmp_path / "decode.json"
    ran = script("decode", "--quick", "--rounds", 1, "--repeats", 1, "--keep", tmp_path, "--output", output)
    assert ran.returncode == 0, ran.stderr
    record = json.loads(output.read_text())
    variants = {"fused-float32", "portable-float32", "fused-int8", "fused-int4"}
    assert set(record["contestants"]) == {"transformers", "dense floor", *variants}
    for counts in record["equal_tokens"].values():
        assert counts == {"greedy": [4, 4], "batch 8": [32, 32], "4 beams": [4, 4]}
    profiled = script("operators", "--bundle", tmp_path / "bundles" / "tiny", "--places")
    assert profiled.returncode == 0, profiled.stderr
    assert "If" in profiled.stdout


@pytest.mark.slow
def test_serving_runs(tmp_path):
    output = tmp_path / "serving.json"
    quick = ("--quick", "--rounds", 1, "--seconds", 2, "--clients", 1, 4, "--keep", tmp_path, "--output", output)
    ran = script("serving", *quick)
    assert ran.returncode == 0, ran.stderr
    record = json.loads(output.read_text())
    assert set(record["contestants"]) == {"service", "a lock around Infiller.infill", "around transformers.generate"}
    for loads in record["contestants"].values():
        assert [one["clients"] for one in loads] == [1, 4]
        assert all(one["answers"] > 0 and one["refused"] == 0 for one in loads)
    assert record["contestants"]["service"][0]["first_token"]
    assert output.with_suffix(".svg").read_text().startswith("<svg")


@pytest.mark.slow
def test_calib_memory_runs_and_cleans_up(tmp_path):
    output, folder = tmp_path / "calib_memory.json", tmp_path / "work"
    corpus = BENCHMARKS.parent / "examples/data/c4-sample-train.json.gz"
    ran = script("calib_memory", "--quick", "--corpus", corpus, "--folder", folder, "--output", output)
    assert ran.returncode == 0, ran.stderr
    (bundle,) = json.loads(output.read_text())["bundles"].values()
    assert 0 < bundle["anonymous_peak_bytes"] <= bundle["peak_bytes"]
    assert not folder.exists()


@pytest.mark.slow
def test_compare_memory_runs_and_cleans_up(tmp_path):
    output, folder = tmp_path / "compare_memory.json", tmp_path / "work"
    ran = script("compare_memory", "--quick", "--documents", 2, "--folder", folder, "--output", output)
    assert ran.returncode == 0, ran.stderr
    measured = json.loads(output.read_text())
    assert 0 < measured["anonymous_peak_bytes"] <= measured["peak_bytes"]
    assert measured["variants"] == [
        "fused-float32", "portable-float32", "fused-int8", "fused-int4", "portable-int8-qdq"
    ]  # fmt: skip
    assert not folder.exists()


@pytest.mark.slow
def test_export_memory_runs_and_cleans_up(tmp_path):
    output, folder = tmp_path / "export_memory.json", tmp_path / "work"
    ran = script("export_memory", "--quick", "--folder", folder, "--output", output)
    assert ran.returncode == 0, ran.stderr
    exports = json.loads(output.read_text())["exports"]
    assert all(0 < each["anonymous_peak_bytes"] <= each["peak_bytes"] for each in exports.values())
    assert not folder.exists()


@pytest.mark.slow
def test_large_runs_and_cleans_up(tmp_path):
    output, folder = tmp_path / "large.json", tmp_path / "work"
    ran = script("large", "--quick", "--folder", folder, "--output", output)
    assert ran.returncode == 0, ran.stderr
    (model,) = json.loads(output.read_text())["models"].values()
    assert list(model["runs"]) == ["all in memory", "room for all", "limited"]
    for run in model["runs"].values():
        assert 0 < run["anonymous_peak_bytes"] <= run["peak_bytes"]
        assert run["cold_tokens_per_second"] > 0
    assert not folder.exists()


def test_published_models_by_arithmetic(load):
    """Of what is known of them: 7.4 and 395 billion parameters, and the released base's experts of 4.7 million."""
    published = load("large_arithmetic").published
    models = {(each.model, each.scheme): each for each in published(disk_rate=1e9)}
    base, giant = models["switch-base-128", "int8"], models["switch-xxl-128", "int4"]
    assert base.expert_bytes + base.other_bytes == pytest.approx(7.45e9, rel=0.01)
    assert base.token_bytes == 6 * 2 * 768 * 3072
    assert base.disk_seconds == pytest.approx(5 * base.nvme_seconds)
    assert base.token_bytes * 50 < base.input_bytes < base.token_bytes * 51  # of 64 tokens, some go the same way
    assert models["switch-xxl-128", "int8"].expert_bytes + giant.other_bytes == pytest.approx(395e9, rel=0.01)
    blocks = 3 * 4096 * 10240 * (0.5 + 4 / 64)  # of one expert: all of its weights have 2048 inputs and more
    assert giant.token_bytes == pytest.approx(12 * blocks)


@pytest.mark.slow
def test_full_width_runs_and_cleans_up(tmp_path):
    output, folder = tmp_path / "full_width.json", tmp_path / "work"
    ran = script("full_width", "--quick", "--folder", folder, "--output", output)
    assert ran.returncode == 0, ran.stderr
    slices = json.loads(output.read_text())["slices"]
    assert set(slices) == {"tiny-gated", "tiny-by-experts"}
    for each in slices.values():
        assert set(each["steps"]) == {"export, bfloat16", "export, float32", "int4", "decode, int4"}
        assert all(step["peak_bytes"] > 0 for step in each["steps"].values())
        assert each["cp_seconds"] > 0
    assert not folder.exists()


@pytest.mark.slow
def test_engine_build_runs_and_cleans_up(tmp_path):
    output = tmp_path / "engine_build.json"
    ran = script("engine_build", "--quick", "--dtype", "bfloat16", "--keep", tmp_path, "--output", output)
    assert ran.returncode == 0, ran.stderr
    variant = json.loads(output.read_text())["variants"]["portable-bfloat16"]
    assert set(variant["plans"]) == {"encoder", "decoder"}
    assert all(plan["bytes"] > 0 and plan["seconds"] > 0 for plan in variant["plans"].values())
    assert not (tmp_path / "tiny-bfloat16").exists()


def test_steps_are_measured_by_their_rows(exports):
    ran = script("steps", str(exports("tied", "fused").folder))
    assert ran.returncode == 0, ran.stderr
    _, _, *lines = ran.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "4", "8", "16", "32", "64"]
    assert all(float(cell) > 0 for line in lines for cell in line.split())
