"""The README shows what `benchmarks/results` holds, and the scripts that measure run."""

import asyncio
import contextlib
import importlib
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmark_scripts import BENCHMARKS, script
from places import EXAMPLES
from pointsman.bundle import read_manifest
from pointsman_calib import quantize

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
    reads = roofline.Speeds({0: 4.0}, {"float32": math.inf})
    demand = roofline.float_demand(base, routing, "float32", 4, cross=True)
    assert demand.least_seconds(case, reads) == encoder + 3 * decoder
    without = roofline.float_demand(base, routing, "float32", 4, cross=False)
    assert without.encoder_bytes == demand.encoder_bytes - 4 * 12 * 2 * square


@pytest.mark.parametrize("experts", [1.0, 2.5])
def test_what_graphs_read_is_what_tensors_say(load, exports, experts):
    """In float32, to the graphs' own constants."""
    bundle = exports("tied", "fused").folder
    routing = {"encoder_experts_hit": experts, "decoder_experts_hit": experts}
    demand = load("roofline").float_demand(read_manifest(bundle).architecture, routing, "float32", 4, cross=True)
    for role, wanted in (("encoder", demand.encoder_bytes), ("decoder", demand.step_bytes)):
        assert load("reading").bytes_read(bundle, "fused-float32", role, experts) == pytest.approx(wanted, rel=0.01)


def test_what_a_quantized_step_reads(load, exports, tmp_path):
    """Codes of a byte, and a scale for each column of them."""
    bundle = tmp_path / "bundle"
    shutil.copytree(exports("tied", "fused").folder, bundle)
    quantize(bundle, "int8")
    roofline, architecture = load("roofline"), read_manifest(bundle).architecture
    routing = {"encoder_experts_hit": 2.0, "decoder_experts_hit": 1.0}
    found = roofline.quantized_demand(bundle, "fused-int8", architecture, routing)
    codes = roofline.float_demand(architecture, routing, "int8", 1, cross=True)
    assert 1.0 < found.step_bytes / codes.step_bytes < 2.0
    assert found.step_operations == codes.step_operations


@pytest.mark.parametrize(
    ("role", "most_nodes", "most_bytes"), [("encoder", 241, 1_890_000), ("decoder", 364, 2_960_000)]
)
def test_what_the_demo_runs_and_reads_in_int8(load, role, most_nodes, most_bytes):
    """Without clocks: nodes outside of branches, and bytes of one token. Whoever adds to them says why."""
    bundle = EXAMPLES / "demo_int8"
    graph = importlib.import_module("onnx_ir").load(
        bundle / read_manifest(bundle).variants["fused-int8"].graph(role).file
    )
    assert len(list(graph.graph)) <= most_nodes
    assert load("reading").bytes_read(bundle, "fused-int8", role, 1.0) <= most_bytes


def test_of_two_forms_of_a_weight_the_smaller_counts(load, tmp_path):
    """A weight that is there twice, for few rows and for many, is read once."""
    reading, ir = load("reading"), importlib.import_module("onnx_ir")

    def product(name, size):
        weight = ir.Value(name=name, const_value=ir.tensor(np.zeros((4, size), np.float32)))
        return ir.Node("", "MatMul", [ir.Value(name="x"), weight])

    branches = [ir.Graph([], [], nodes=[product(name, size)]) for name, size in (("few", 8), ("many", 16))]
    chosen = ir.Node(
        "",
        "If",
        [ir.Value(name="rows")],
        [ir.AttrGraph("then_branch", branches[0]), ir.AttrGraph("else_branch", branches[1])],
    )
    table = ir.Value(name="table", const_value=ir.tensor(np.zeros((99, 4), np.float32)))
    looked_up = ir.Node("", "Gather", [table, ir.Value(name="ids")])
    graph = ir.Graph([], [], nodes=[chosen, looked_up, product("always", 2)])
    assert reading._weights(graph) == {"few": 4 * 8 * 4, "always": 4 * 2 * 4}


def test_the_roofline_counts_what_a_request_multiplies(load):
    """By hand: every token meets each weight once, and one expert of a layer."""
    shapes, roofline, cases = load("shapes"), load("roofline"), load("cases")
    square, wide, norm = 768 * 768, 2 * 768 * 3072, 768
    encoder = 12 * (4 * square + 2 * norm + wide) + 6 * 8 * 768 + 32 * 12 + norm + 12 * 2 * square
    case = cases.Case("", batch=2, source=512, new_tokens=0)
    multiplies = roofline.Speeds({0: math.inf}, {"float32": 2.0})
    demand = roofline.float_demand(shapes.SHAPES["switch-base-8"], {}, "float32", 4, cross=True)
    assert demand.least_seconds(case, multiplies) == 1024 * encoder


def test_speeds_of_the_machine(load):
    measured = load("roofline").speeds(2)
    assert measured.memory > 1e8
    assert set(measured.operations_a_second) == {"float32", "bfloat16", "int8"}
    assert min(measured.operations_a_second.values()) > 1e8


def test_what_fits_a_cache_is_read_at_its_speed(load):
    speeds = load("roofline").Speeds
    measured = speeds({100: 50.0, 200: 40.0, 1000: 10.0}, {"int8": 1.0})
    assert [measured.reading(size) for size in (50, 100, 199, 200, 999, 5000)] == [50, 50, 50, 40, 40, 10]
    assert measured.memory == 10.0
    faster = speeds({100: 60.0, 200: 30.0, 1000: 10.0}, {"int8": 3.0})
    assert speeds.best([measured, faster]) == speeds({100: 60.0, 200: 40.0, 1000: 10.0}, {"int8": 3.0})
    assert speeds.from_json(json.loads(json.dumps(measured.to_json()))) == measured


@pytest.fixture
def measured(load):
    """Two rounds of a contestant, of one engine or another."""
    cases = load("cases").Case

    def of(engine="onnxruntime", greedy=0.4, first=0.09, encoder=0.3, **more):
        job = load("contestants.job").Job(
            engine=engine,
            path="",
            cases=(cases("greedy"), cases("first token", new_tokens=1), cases("encoder 512", source=512, new_tokens=0)),
        )
        times = {"greedy": greedy, "first token": first, "encoder 512": encoder}
        one = {name: {"seconds": [seconds], "peak_bytes": 1e9} for name, seconds in times.items()}
        printed = {"load_seconds": 1.0, "peak_bytes": 2e9, "cases": one}
        return load("contest").Measured(job, [printed, printed], **{"bytes": 100, **more})

    return of


def test_a_step_is_what_more_tokens_take(measured):
    assert measured().step_seconds() == pytest.approx(0.01)
    assert measured().first_peak_bytes == 1e9


def test_a_step_is_taken_off_where_the_encoder_cannot_run_alone(measured):
    assert measured().seconds("encoder 512") == 0.3
    assert measured("ctranslate2").seconds("encoder 512") == pytest.approx(0.29)
    assert measured("ctranslate2").seconds("greedy") == 0.4


def test_promises_are_held_to_the_faster_reference(load, measured):
    promises = load("promises")
    contestants = {
        "transformers float32": measured("transformers", greedy=1.8, encoder=0.6),
        "transformers bfloat16": measured("transformers", greedy=2.0, encoder=0.3),
        "ctranslate2 int8": measured("ctranslate2"),
        "fused-int8": measured(bytes=20),
    }
    bars = {bar.name: (round(bar.value, 2), bar.held) for bar in promises.bars(contestants, {"fused-int8": 0.007})}
    assert bars == {
        "fused-int8: times the speed of ctranslate2 int8, greedy": (1.0, False),
        "fused-int8: times the speed of ctranslate2 int8, encoder 512": (0.97, False),
        "fused-int8: times the speed of transformers float32, greedy": (4.5, True),
        "fused-int8: times the speed of transformers bfloat16, encoder 512": (1.0, False),
        "fused-int8: part of the memory roofline, a step of one row": (0.7, False),
        "fused-int8: seconds to load": (1.0, True),
    }


def test_growth_by_experts_is_that_of_all_sparse_blocks(load):
    growth = load("growth")
    by_experts = growth.growth_by_experts({8: 0.010, 32: 0.0102, 128: 0.0104})
    assert by_experts == pytest.approx({8: 1.0, 32: 1.06, 128: 1.12})
    assert [bar.held for bar in growth.bars(by_experts)] == [True, False]


@pytest.mark.parametrize(
    ("cpu", "sets", "name", "file"),
    [
        ("AMD EPYC", ["avx2", "avx512f", "avx512_vnni"], "AMD EPYC", "epyc-avx512_vnni"),
        ("Intel(R) Xeon(R) Processor", ["avx_vnni", "avx512_vnni", "amx_int8"], "Intel Xeon", "xeon-avx512_vnni-amx"),
        ("Intel(R) Core(TM) i7 CPU @ 3.4GHz", ["avx", "avx2"], "Intel Core i7", "core-i7-avx2"),
        ("Neoverse-N1", ["asimd", "asimddp"], "Neoverse-N1", "neoverse-n1-asimddp"),
    ],
)
def test_machines_have_names(load, cpu, sets, name, file):
    described = {"cpu": cpu, "instruction_sets": sets}
    assert load("machine").short_name(described) == name
    assert load("machine").file_name(described) == file


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
