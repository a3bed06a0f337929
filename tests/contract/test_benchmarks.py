"""The scripts that measure run, and clean up."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys

import pytest

from benchmark_scripts import BENCHMARKS, script
from pointsman.bundle import read_manifest


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


PEERS = [("transformers", "float32"), ("transformers", "bfloat16"), ("ctranslate2", "float32"), ("ctranslate2", "int8")]


@pytest.mark.slow
def test_decode_runs_and_says_what_transformers_says(tmp_path):
    output = tmp_path / "decode.json"
    ran = script("decode", "--quick", "--rounds", 1, "--seconds", 0, "--keep", tmp_path, "--output", output)
    assert ran.returncode == 0, ran.stderr
    record = json.loads(output.read_text())
    variants = {"fused-float32", "portable-float32", "fused-int8", "fused-int4"}
    peers = {f"{library} {precision}" for library, precision in PEERS}
    assert set(record["contestants"]) == {"dense floor", *peers, *variants}
    assert set(record["equal_tokens"]) == {"fused-float32", "portable-float32", "ctranslate2 float32"}
    for counts in record["equal_tokens"].values():
        assert counts.pop("first token") == [1, 1]
        assert counts == {
            "greedy": [4, 4], "batch 8": [32, 32], "4 beams": [4, 4], "batch 8 x 4 beams": [32, 32]
        }  # fmt: skip
    assert all(sizes["first_peak_bytes"] <= sizes["peak_bytes"] for sizes in record["contestants"].values())
    profiled = script("operators", "--bundle", tmp_path / "bundles" / "tiny", "--places")
    assert profiled.returncode == 0, profiled.stderr
    assert "If" in profiled.stdout
    alone = tmp_path / "products.json"
    ran = script("products", "--quick", "--decode", output, "--rounds", 1, "--keep", tmp_path, "--output", alone)
    assert ran.returncode == 0, ran.stderr
    bounds = json.loads(alone.read_text())["bounds"]
    assert {row["case"] for row in bounds} >= {"greedy", "batch 8", "4 beams"}
    assert all(row["products_alone"] > row["measured"] > 0 for row in bounds)


def test_answers_are_counted_when_all_clients_are_at_work(load):
    """A service that answers one after another: the first of four clients waits for nobody, and is not counted."""
    seconds, clients = 0.1, 4

    async def answer(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))
                async with turn:
                    await asyncio.sleep(seconds)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    async def asked():
        nonlocal turn
        turn = asyncio.Lock()
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            url = "http://{}:{}".format(*server.sockets[0].getsockname())
            return await asyncio.to_thread(module.ask, url, [{"text": "a"}], clients=clients, seconds=2, streams=False)

    turn, module = None, load("load")
    seen = asyncio.run(asked())
    assert seen.refused == 0
    assert 0 < len(seen.latencies) <= seen.seconds / seconds
    assert min(seen.latencies) > (clients - 1) * seconds


@pytest.mark.slow
def test_decode_runs_a_part(tmp_path):
    """Nobody else's model is made."""
    output = tmp_path / "decode.json"
    part = ("--cases", "greedy", "--contestants", "ctranslate2 int8", "dense floor")
    ran = script("decode", "--quick", "--rounds", 1, "--seconds", 0, *part, "--keep", tmp_path, "--output", output)
    assert ran.returncode == 0, ran.stderr
    assert set(json.loads(output.read_text())["contestants"]) == {"ctranslate2 int8", "dense floor"}
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == ["tiny-dense"]


@pytest.mark.slow
def test_growth_runs(tmp_path):
    output = tmp_path / "growth.json"
    ran = script("growth", "--quick", "--rounds", 1, "--keep", tmp_path, "--output", output)
    assert ran.returncode == 0, ran.stderr
    seconds = json.loads(output.read_text())["seconds"]
    assert {grown: len(sizes) for grown, sizes in seconds.items()} == {
        "experts": 2,
        "rows": 6,
        "source": 6,
        "output": 6,
    }
    assert all(each > 0 for sizes in seconds.values() for each in sizes.values())


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
def test_calibration_runs_and_cleans_up(tmp_path):
    output, folder = tmp_path / "calibration.json", tmp_path / "work"
    ran = script("calibration", "--quick", "--min-agreement", 0, "--folder", folder, "--output", output)
    assert ran.returncode == 0, ran.stderr
    runs = json.loads(output.read_text())["runs"]
    assert runs.keys() == {"int8", "int4"}
    for run in runs.values():
        assert run["minutes"] >= 0
        assert 0 < run["anonymous_peak_bytes"] <= run["peak_bytes"]
    assert not folder.exists()


def test_calibration_on_a_gpu_that_is_not_there(tmp_path):
    ran = script("calibration", "--quick", "--device", "cuda", "--output", tmp_path / "calibration.json")
    if ran.returncode != 2:
        pytest.skip("there is a GPU here")
    assert ran.stderr.startswith("calibration: ")
    assert ran.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_device_agrees_with_itself(tmp_path):
    """The CPU in the GPU's place; the demo model."""
    output = tmp_path / "calibration.json"
    code = (
        f"import pathlib, calibration; print(calibration.compare_devices(pathlib.Path({str(output)!r}), {{}}, 'cpu'))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    assert ran.stdout.endswith("the device and the CPU agree\n0\n"), ran.stderr
    found = json.loads(output.read_text())["agreement"]
    assert found["ranges"]["largest"] == 0
    for scheme in ("int8", "int4", "int8-qdq"):
        assert all(found[scheme]["choices"].values())
        assert (found[scheme]["loss"], found[scheme]["scales"], found[scheme]["same_codes_percent"]) == (0, 0, 100)


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
    assert list(model["runs"]) == ["all in memory", "room for all", "limited", "in int4, all in memory"]
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


def test_a_bundle_of_another_form_is_not_taken(load, tmp_path):
    """And it stays: whoever made it may come back."""
    prepared = load("prepared")
    checkpoint = prepared.prepared_checkpoint(tmp_path, "tiny")
    for forms, there in (
        ("portable", {"portable"}),
        ("fused", {"fused", "portable"}),
        ("portable", {"fused", "portable"}),
    ):
        bundle = prepared.prepared_bundle(tmp_path, checkpoint, forms=forms)
        assert {each.form for each in read_manifest(bundle).variants.values()} == there
