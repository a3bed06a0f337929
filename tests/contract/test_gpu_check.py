"""The check that runs on a GPU: what it says without one, its report, and its contestants on the CPU."""

import json
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from benchmark_scripts import script
from pointsman import DecodingOptions
from tolerances import SCORE


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
    return gpu.Check(gpu.Clock(0.0), tmp_path, "tiny", "tiny-16", load("cases").QUICK_CASES, 1)


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
    """Of made-up figures: transformers takes 400 ms, ours 30 ms with a loss 0.05 % higher."""
    routing = {"encoder_experts_hit": 8.0, "decoder_experts_hit": 1.0}
    reference = gpu_measured([[5, 6, 7, 8]], 400.0, routing=routing) | {"bytes_a_second": 1e12}
    measured = {
        "transformers bfloat16": reference,
        "onnxruntime portable-bfloat16": gpu_measured([[5, 6, 9, 8]], 30.0),
        "transformers float32": reference | {"searched": [[[3, 1]], [[4, 4]]]},
        "onnxruntime fused-float32": gpu_measured([[5, 6, 7, 8]], 100.0) | {"searched": [[[3, 1]], [[4]]]},
    }
    documents = {
        "transformers float32": forced([2.0, 4.0, 6.0], [7, 7, 9]),
        "transformers bfloat16": forced([3.0, 4.0, 6.0], [7, 7, 9]),
        "onnxruntime portable-bfloat16": forced([2.006, 4.0, 6.0], [7, 8, 9]),
    }
    refusals = {"tensorrt-rtx portable-bfloat16": "it is not installed"}
    cases, gpu = [load("cases").Case("greedy")], {"name": "GPU", "driver": "600"}
    return load("gpu_report").Report(gpu, cases, measured, documents, refusals, "switch-base-8", {})


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


def test_the_gpu_report_knows_where_sequences_part(gpu_report, load):
    name, differing = "onnxruntime fused-float32", load("gpu_report").differing
    gpu_report.measured["transformers float32"]["searched"] = [[[3, 1], [2, 1]], [[9, 1], [4, 4]]]
    gpu_report.measured[name]["searched"] = [[[3, 1], [2, 1]], [[9, 1], [4]]]
    (document,) = differing(name, gpu_report.measured, gpu_report.cases, 32128)
    assert document.target == (4, 4)  # ours ends after the first
    assert len(document.inputs) == 17  # the second length that is searched
    gpu_report.measured[name]["cases"]["greedy"]["tokens"] = [[5, 1, 7, 8]]
    found = {len(each.inputs): each.target for each in differing(name, gpu_report.measured, gpu_report.cases, 32128)}
    assert found == {64: (5, 6), 17: (4, 4)}


def test_a_sequence_may_part_where_float32_cannot_choose(gpu_report):
    name, near = "onnxruntime fused-float32", {"where": "a router", "position": 3, "margin": 1e-5, "error": 2e-5}
    far = {**near, "margin": 3e-5}
    assert replace(gpu_report, doubts={name: [near]}).tokens_agree()
    for doubts in ({name: [near, far]}, {name: [far]}, {name: []}, {"another": [near]}):
        assert not replace(gpu_report, doubts=doubts).tokens_agree()
    page = replace(gpu_report, doubts={name: [far]}).to_markdown({"date": "2026-01-01", "versions": {}})
    assert "- a choice that float32 can make: a router has its best two 3.0e-05 apart in float64 at token 3" in page


def test_requests_in_shared_steps_have_to_get_what_they_get_alone(gpu_report):
    del gpu_report.measured["onnxruntime fused-float32"]["searched"]
    mixed = {"requests": 48, "equal": 48, "together": 1.0, "alone": 3.0}
    ours = gpu_report.measured.pop("onnxruntime fused-float32")
    report = replace(gpu_report, measured={**gpu_report.measured, "onnxruntime portable-float32": ours})
    assert replace(report, mixed=mixed).tokens_agree()
    assert not replace(report, mixed={**mixed, "equal": 47}).tokens_agree()
    assert not report.tokens_agree()  # they were not compared
    page = replace(gpu_report, mixed=mixed).to_markdown({"date": "2026-01-01", "versions": {}})
    assert "48 of 48 requests in shared steps get the tokens that they get alone, 3.0 times as fast" in page


def test_the_gpu_report_compares_losses_in_low_precision(gpu_report):
    ours = gpu_report.fidelities()["onnxruntime portable-bfloat16"]
    assert (ours.loss, ours.change, ours.agreement) == pytest.approx((4.002, 0.0005, 2 / 3))
    assert gpu_report.losses_agree()  # transformers' own loss in bfloat16, a twelfth higher, is not held to anything
    gpu_report.forced["onnxruntime portable-bfloat16"] = forced([1.98, 4.0, 6.0], [7, 7, 9])
    assert not gpu_report.losses_agree()  # lower is as wrong as higher
    del gpu_report.forced["onnxruntime portable-bfloat16"]
    assert not gpu_report.losses_agree()  # nothing was compared


def test_the_gpu_report_without_an_exact_loss(gpu_report):
    del gpu_report.forced["transformers float32"]
    assert gpu_report.fidelities() == {}
    assert not gpu_report.losses_agree()


def test_the_gpu_report_compares_speed(gpu_report):
    (bar,) = gpu_report.bars()
    assert (round(bar.value, 2), bar.held) == (13.33, True)


def test_the_gpu_report_holds_a_hopper_to_its_time_and_128_experts_to_that_of_8(gpu_report):
    report = replace(
        gpu_report, gpu={"name": "NVIDIA H200", "compute_capability": "9.0"}, grown=gpu_measured([[5]], 36.0)
    )
    report = replace(report, cases=[replace(report.cases[0], new_tokens=16)])
    _, milliseconds, growth = report.bars()
    assert (milliseconds.value, milliseconds.held) == (pytest.approx(30 / 16), False)
    assert (growth.value, growth.held) == (pytest.approx(1.2), False)
    assert ", missed\n" in report.to_markdown({"date": "2026-01-01", "versions": {}})


def test_the_gpu_report_has_the_share_of_the_roofline(gpu_report, load):
    greedy = gpu_report.cases[0]
    halves = [gpu_report.roofline_seconds(name, greedy) for name in gpu_report.measured]
    assert halves[0] == halves[1] == halves[2] / 2
    # One decoder step of base-8 reads some 120 million weights with one expert a layer.
    assert halves[2] * 1e12 / 4 == pytest.approx(32 * 124e6, rel=0.1)


def test_the_gpu_report_as_a_page(gpu_report):
    page = gpu_report.to_markdown({"date": "2026-01-01", "versions": {"torch": "2.13.0"}})
    assert page.startswith("# GPU\n\n2026-01-01; driver 600; torch 2.13.0. Shape: switch-base-8.\n")
    assert "| greedy | onnxruntime portable-bfloat16 | 30.00 | 0.94 | 13.3× | 28% |" in page
    assert "- onnxruntime fused-float32: 7 of 8 tokens are those of transformers; not in min_new_tokens 10, " in page
    assert (
        "- onnxruntime portable-bfloat16: the demo model's loss on C4 is 4.0020, +0.050% beside float32; "
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


def test_the_choice_that_float32_makes_otherwise_is_the_nearest(load):
    """A router has its third token's experts 1e-4 apart, and float32 says the other; what follows is far off."""
    doubting = load("contestants.doubting")
    drawn = np.random.default_rng(0)
    exact = {name: np.tile([0.7, 0.2, 0.1], (4, 1)) for name in ("encoder.a", "decoder.a", "decoder.b")}
    exact[doubting.TOKENS] = np.tile([3.0, 2.9, 0.0], (4, 1))
    exact["decoder.a"][2] = [0.4501, 0.45, 0.0999]
    rounded = {name: scores + 1e-5 * drawn.standard_normal(scores.shape) for name, scores in exact.items()}
    rounded["decoder.a"][2] = [0.45, 0.4501, 0.0999]
    rounded["decoder.b"][2:] = rounded[doubting.TOKENS][2:] = [0.0, 0.0, 1.0]
    doubt = doubting.nearest(exact, rounded)
    assert (doubt.where, doubt.position) == ("decoder.a", 2)
    assert doubt.margin == pytest.approx(1e-4)
    assert doubt.error == pytest.approx(2e-4)


def test_what_a_wrong_choice_leads_to_excuses_nothing(load):
    """A near tie of another router, behind it: it is nobody's cause."""
    doubting = load("contestants.doubting")
    exact = {name: np.tile([0.7, 0.2, 0.1], (3, 1)) for name in ("decoder.a", "decoder.b")}
    exact[doubting.TOKENS] = np.tile([3.0, 1.0, 0.0], (3, 1))
    exact["decoder.b"][1] = [0.45001, 0.45, 0.09999]
    rounded = {name: scores + 1e-7 for name, scores in exact.items()}
    rounded["decoder.a"][0] = [0.2, 0.7, 0.1]
    doubt = doubting.nearest(exact, rounded)
    assert (doubt.where, doubt.position, doubt.margin) == ("decoder.a", 0, pytest.approx(0.5))


def test_doubts_are_less_where_choices_are_far(load, exports):
    """In float32 a tiny model's nearest choice is some way from its rounding."""
    job, document = load("contestants.job").Job, load("contestants.forcing").Document
    checkpoint = exports.checkpoint("tied")
    asked = job(engine="transformers", path=str(checkpoint), doubted=(document((5, 6, 7, 1), (9, 8, 7, 1)),))
    (doubt,) = load("contestants.measuring").measure(job.from_json(asked.to_json()))["doubts"]
    assert 0 < doubt["error"] < doubt["margin"] < 1
    assert doubt["where"] == "tokens" or doubt["where"].endswith("mlp.router.classifier")


def test_mixed_requests_get_what_they_get_alone(load, exports):
    export = exports("tied", "fused")
    job = load("contestants.job").Job(
        engine="onnxruntime", path=str(export.folder), variant="fused-float32", threads=1, mixed=12
    )
    mixed = load("contestants.measuring").measure(job)["mixed"]
    assert (mixed["requests"], mixed["equal"]) == (12, 12)


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
    check = gpu.Check(gpu.Clock(time.monotonic() + 1700), tmp_path, "tiny", "tiny-16", cases, 1, "cpu")
    check.run()
    found = check.measured, check.forced, check.refusals, "tiny", check.grown, check.doubts, check.mixed
    report = load("gpu_report").Report({"name": "CPU"}, cases, *found)
    assert check.mixed["equal"] == check.mixed["requests"] == gpu.MIXED
    assert set(check.measured["transformers compiled bfloat16"]["cases"]) == {"greedy", "encoder 64"}
    assert report.tokens_agree()
    assert set(report.equal_tokens()) == {"onnxruntime portable-float32"}
    assert len(report.equal_tokens()["onnxruntime portable-float32"]) == 2 + 8  # cases that generate, and searches
    assert abs(report.fidelities()["transformers bfloat16"].change) < 0.001
    assert check.measured["transformers float32"]["bytes_a_second"] > 1e8
    no_bfloat16 = "ONNX Runtime does not run bfloat16 on the CPU"
    for what in ("", ", demo model", ", tiny-16"):
        assert check.refusals[f"onnxruntime portable-bfloat16{what}"].startswith(no_bfloat16)
