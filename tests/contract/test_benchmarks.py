"""The README shows what `benchmarks/results` holds, and the scripts that measure run."""

import importlib
import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from places import ROOT
from pointsman import DecodingOptions
from tolerances import SCORE

BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
CASES = ("greedy", "batch 8", "4 beams", "encoder 512")


def script(name: str, *arguments: object, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


@pytest.fixture
def load(monkeypatch):
    """Import a module of the benchmarks, which find each other beside themselves."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


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


def test_the_gpu_check_says_in_one_line_that_there_is_no_gpu():
    ran = script("gpu", "--quick")
    if ran.returncode != 2:
        pytest.skip("this machine has a GPU")
    assert ran.stdout == ""
    assert ran.stderr.startswith("gpu-check: there is no NVIDIA ")
    assert ran.stderr.count("\n") == 1


@pytest.fixture
def gpu_check(load, tmp_path):
    """A check of tiny models that has no time left."""
    gpu = load("gpu")
    return gpu.Check(gpu.Clock(0.0), tmp_path, "tiny", load("cases").QUICK_CASES, 1)


def test_who_does_not_run_is_named(gpu_check):
    kept = dict(gpu_check.refusals)
    for name, command in (
        ("fails", [sys.executable, "-c", "raise SystemExit('first\\npointsman-export: the last line')"]),
        ("refuses", [sys.executable, "-c", 'print(\'{"refusal": "no CUDA"}\'); raise SystemExit(3)']),
        ("hangs", [sys.executable, "-c", "import time; time.sleep(60)"]),
    ):
        gpu_check.clock.ends = time.monotonic() + (16 if name == "hangs" else 60)
        assert gpu_check._process(name, name, command) is None
    gpu_check.clock.ends = 0.0
    assert gpu_check._process("late", "late", []) is None
    assert gpu_check.refusals == kept | {
        "fails": "the last line",
        "refuses": "no CUDA",
        "hangs": "not done after 1 s, when the time was up",
        "late": "no time was left",
    }


def gpu_measured(tokens, milliseconds, **more):
    return {"load_seconds": 1.0, "cases": {"greedy": {"tokens": tokens, "seconds": [milliseconds / 1e3], **more}}}


def forced(losses, likeliest):
    return [{"losses": losses[:2], "likeliest": likeliest[:2]}, {"losses": losses[2:], "likeliest": likeliest[2:]}]


@pytest.fixture
def gpu_report(load):
    """Of made-up figures: transformers takes 400 ms, TensorRT 30 ms with a loss 0.05 % higher."""
    routing = {"encoder_experts_hit": 8.0, "decoder_experts_hit": 1.0}
    reference = gpu_measured([[5, 6, 7, 8]], 400.0, routing=routing) | {"bytes_a_second": 1e12}
    measured = {
        "transformers bfloat16": reference,
        "tensorrt portable-bfloat16": gpu_measured([[5, 6, 9, 8]], 30.0),
        "transformers float32": reference | {"searched": [[[3, 1]], [[4, 4]]]},
        "onnxruntime fused-float32": gpu_measured([[5, 6, 7, 8]], 100.0) | {"searched": [[[3, 1]], [[4]]]},
    }
    documents = {
        "transformers float32": forced([2.0, 4.0, 6.0], [7, 7, 9]),
        "transformers bfloat16": forced([3.0, 4.0, 6.0], [7, 7, 9]),
        "tensorrt portable-bfloat16": forced([2.006, 4.0, 6.0], [7, 8, 9]),
    }
    refusals = {"tensorrt-rtx portable-bfloat16": "it is not installed"}
    cases, gpu = [load("cases").Case("greedy")], {"name": "GPU", "driver": "600"}
    return load("gpu_report").Report(gpu, cases, measured, documents, refusals, "switch-base-8")


def test_the_gpu_report_compares_tokens_in_float32(gpu_report):
    assert gpu_report.equal_tokens() == {
        "onnxruntime fused-float32": {
            "greedy": [4, 4],
            "greedy search": [2, 2],
            "min_new_tokens 10, repetition_penalty 1.3": [1, 2],
        },
    }
    assert not gpu_report.tokens_agree()  # one is missing
    del gpu_report.measured["onnxruntime fused-float32"]["searched"]
    assert gpu_report.tokens_agree()
    del gpu_report.measured["onnxruntime fused-float32"]
    assert not gpu_report.tokens_agree()  # nothing was compared


def test_the_gpu_report_compares_losses_in_low_precision(gpu_report):
    ours = gpu_report.fidelities()["tensorrt portable-bfloat16"]
    assert (ours.loss, ours.change, ours.agreement) == pytest.approx((4.002, 0.0005, 2 / 3))
    assert gpu_report.losses_agree()  # transformers' own loss in bfloat16, a twelfth higher, is not held to anything
    gpu_report.forced["tensorrt portable-bfloat16"] = forced([1.98, 4.0, 6.0], [7, 7, 9])
    assert not gpu_report.losses_agree()  # lower is as wrong as higher
    del gpu_report.forced["tensorrt portable-bfloat16"]
    assert not gpu_report.losses_agree()  # nothing was compared


def test_the_gpu_report_without_an_exact_loss(gpu_report):
    del gpu_report.forced["transformers float32"]
    assert gpu_report.fidelities() == {}
    assert not gpu_report.losses_agree()


def test_the_gpu_report_compares_speed(gpu_report):
    (bar,) = gpu_report.bars()
    assert (round(bar.value, 2), bar.held) == (13.33, True)


def test_the_gpu_report_has_the_share_of_the_roofline(gpu_report, load):
    greedy = gpu_report.cases[0]
    halves = [gpu_report.roofline_seconds(name, greedy) for name in gpu_report.measured]
    assert halves[0] == halves[1] == halves[2] / 2
    # One decoder step of base-8 reads some 120 million weights with one expert a layer.
    assert halves[2] * 1e12 / 4 == pytest.approx(32 * 124e6, rel=0.1)


def test_the_gpu_report_as_a_page(gpu_report):
    page = gpu_report.to_markdown({"date": "2026-01-01", "versions": {"torch": "2.13.0"}})
    assert page.startswith("# GPU\n\n2026-01-01; driver 600; torch 2.13.0. Shape: switch-base-8.\n")
    assert "| greedy | tensorrt portable-bfloat16 | 30.00 | 0.94 | 13.3× | 28% |" in page
    assert "- onnxruntime fused-float32: 7 of 8 tokens are those of transformers; not in min_new_tokens 10, " in page
    assert (
        "- tensorrt portable-bfloat16: the demo model's loss on C4 is 4.0020, +0.050% beside float32; "
        "66.7% of the likeliest tokens agree\n"
    ) in page
    assert "- tensorrt-rtx portable-bfloat16 did not run: it is not installed\n" in page


def test_the_gpus_name_as_a_file(load):
    assert load("gpu").file_name("NVIDIA GeForce RTX 4090") == "nvidia-geforce-rtx-4090"


def test_forcing_notes_what_a_model_would_have_said(load, exports):
    """The loss of a target is its score, and what is likeliest at first is what greedy search says first."""
    model, target = exports.model("tied", "fused"), load("contestants.forcing").ForcedTarget((9, 8, 7, 1), 128)
    model.generate([[5, 6, 1]], DecodingOptions(max_new_tokens=4), constraint=target)
    (scores,) = model.score([[5, 6, 1]], [[9, 8, 7, 1]])
    SCORE.check(target.losses, -scores)
    ((greedy,),) = model.generate([[5, 6, 1]], DecodingOptions(max_new_tokens=1))
    assert target.likeliest[0] == greedy.token_ids[0]


def test_contestants_note_the_same_of_forced_documents(load, exports):
    job, document = load("contestants.job").Job, load("contestants.forcing").Document
    texts = (document((5, 6, 7, 1), (9, 8, 7, 1)), document((11, 12, 1), (13, 14)))
    export = exports("tied", "fused")
    ours, theirs = (
        load("contestants.measuring").measure(job.from_json(each.to_json()))["forced"]
        for each in (
            job(engine="onnxruntime", path=str(export.folder), variant="fused-float32", threads=1, documents=texts),
            job(engine="transformers", path=str(export.checkpoint), threads=1, documents=texts),
        )
    )
    assert [len(each["losses"]) for each in ours] == [4, 2]
    for one, other in zip(ours, theirs, strict=True):
        SCORE.check(one["losses"], other["losses"])
        assert one["likeliest"] == other["likeliest"]


def test_a_contestant_that_cannot_run_says_why(load, exports):
    bundle = exports("tied", "fused").folder
    job = load("contestants.job").Job(engine="tensorrt", path=str(bundle), device="cuda")
    refused = script("contestant", given=job.to_json())
    assert refused.returncode == 3
    assert json.loads(refused.stdout)["refusal"].startswith("the bundle has no ")


@pytest.mark.slow
def test_compiled_steps_say_what_eager_ones_say(load, tmp_path):
    """Also when a second request meets the caches of the first."""
    checkpoint = load("prepared").prepared_checkpoint(tmp_path, "tiny")
    case = load("cases").QUICK_CASES[0]
    job = load("contestants.job").Job(
        engine="transformers", path=str(checkpoint), cases=(case, replace(case, name="2"))
    )
    eager, compiled = (script("contestant", given=each.to_json()) for each in (job, replace(job, engine="compiled")))
    assert compiled.returncode == 0, compiled.stderr
    first, second = (each["tokens"] for each in json.loads(compiled.stdout)["cases"].values())
    assert first == second == json.loads(eager.stdout)["cases"][case.name]["tokens"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_gpu_check_runs_on_a_cpu(load, tmp_path):
    """That shows that the scripts work and agree; the figures are a CPU's, and are thrown away."""
    gpu = load("gpu")
    cases = tuple(case for case in load("cases").QUICK_CASES if case.name in {"greedy", "4 beams", "encoder 64"})
    check = gpu.Check(gpu.Clock(time.monotonic() + 1700), tmp_path, "tiny", cases, 1, "cpu")
    check.run()
    report = load("gpu_report").Report({"name": "CPU"}, cases, check.measured, check.forced, check.refusals, "tiny")
    assert set(check.measured["transformers compiled bfloat16"]["cases"]) == {"greedy", "encoder 64"}
    assert report.tokens_agree()
    assert set(report.equal_tokens()) == {"onnxruntime fused-float32", "onnxruntime portable-float32"}
    assert len(report.equal_tokens()["onnxruntime fused-float32"]) == 2 + 8  # cases that generate, and searches
    assert abs(report.fidelities()["transformers bfloat16"].change) < 0.001
    assert check.measured["transformers float32"]["bytes_a_second"] > 1e8
    no_bfloat16 = "ONNX Runtime does not run bfloat16 on the CPU"
    assert check.refusals["onnxruntime fused-bfloat16"].startswith(no_bfloat16)
    assert check.refusals["onnxruntime fused-bfloat16, demo model"].startswith(no_bfloat16)
