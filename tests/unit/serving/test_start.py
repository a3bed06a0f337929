"""A service starts whatever settings a checkpoint has of its own, and says in one line what keeps it from it."""

import asyncio
import json
import os
import shutil
import signal
import time
from dataclasses import replace

import pytest

from pointsman import Infiller
from pointsman.bundle import read_manifest, write_manifest
from pointsman.bundle.generation import GenerationSettings
from pointsman.bundle.manifest import Limits as BundleLimits
from pointsman.cli.main import main
from pointsman.errors import DeadlineError
from pointsman.serving.http.errors import path_of
from pointsman.serving.limits import ServiceLimits
from pointsman.serving.scheduler import Limits, Scheduler
from pointsman.serving.service import Service

SETTINGS = {
    "beams": {"num_beams": 4},
    "several beams": {"num_beams": 4, "num_return_sequences": 2, "early_stopping": True},
    "fewest tokens": {"min_new_tokens": 40, "max_new_tokens": 64},
    "samples": {"do_sample": True, "temperature": 0.7, "top_k": 5, "num_return_sequences": 3},
    "repeats": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "length_penalty": 0.6},
}
TEXT = "The <extra_id_0> waits by <extra_id_1> box."


@pytest.fixture
def changed(tiny_bundle, tmp_path):
    """A bundle with another manifest."""

    def with_fields(**fields):
        bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
        write_manifest(replace(read_manifest(bundle), **fields), bundle)
        return bundle

    return with_fields


async def answered(service: Service, text: str) -> list[str]:
    await service.start()
    assert service.is_ready
    filling = await service.fill([text], {})
    (filled,) = await filling.filled()
    await service.scheduler.drain(10)
    return [fill.text for fill in filled.fills]


def service_of(bundle) -> Service:
    infiller = Infiller.load(bundle, device="cpu", threads=1)
    return Service("b", infiller, Scheduler(infiller.model, Limits(rows=4)), ServiceLimits())


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_checkpoint_s_settings_hold_for_clients_and_not_for_the_first_requests(kind, changed):
    bundle = changed(generation=GenerationSettings(source="generation_config.json", **SETTINGS[kind]))
    service = service_of(bundle)
    got = asyncio.run(answered(service, TEXT))
    assert len(got) == SETTINGS[kind].get("num_return_sequences", 1)
    if "do_sample" not in SETTINGS[kind]:
        assert got == [fill.text for fill in service.infiller.infill(TEXT)]


def test_a_bundle_of_short_texts(changed):
    assert asyncio.run(answered(service_of(changed(limits=BundleLimits(tokens=24))), "A <extra_id_0> day."))


def test_a_bundle_that_cannot_answer(changed, capsys):
    """One sentence, no traceback, and the exit code of an error."""
    bundle = changed(limits=BundleLimits(tokens=2))
    assert main(["serve", str(bundle), "--port", "0"]) == 2
    *log, said = capsys.readouterr().err.splitlines()
    assert "this bundle takes 2 at most" in said
    assert said.startswith("pointsman: ")
    assert not any("traceback" in line for line in log)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("bundles", [1, 2])
def test_told_to_stop_before_it_is_ready(bundles, tiny_bundle, monkeypatch, capsys):
    first_requests = Service._warm_ups

    def interrupted(service):
        for number, asked in enumerate(first_requests(service)):
            if number:
                os.kill(os.getpid(), signal.SIGTERM)
            yield asked

    monkeypatch.setattr(Service, "_warm_ups", interrupted)
    named = [f"{number}={tiny_bundle}" for number in range(bundles)]
    assert main(["serve", *named, "--port", "0"]) == 0
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert events == ["loading"] * bundles + ["stopping", "stopped"]


@pytest.mark.timeout(60)
def test_told_to_stop_in_the_last_request_before_the_next_bundle(tiny_bundle, monkeypatch, capsys):
    first_requests = Service._warm_ups

    def interrupted(service):
        yield from first_requests(service)
        if service.name == "0":
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Service, "_warm_ups", interrupted)
    assert main(["serve", f"0={tiny_bundle}", f"1={tiny_bundle}", "--port", "0"]) == 0
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert events == ["loading", "loading", "stopping", "stopped"]


def test_routing_has_the_request_s_deadline(tiny_bundle, monkeypatch):
    """What nobody waits for any more goes on in its thread, and the next begins after it."""
    infiller = Infiller.load(tiny_bundle, device="cpu", threads=1, routing=True)
    service = Service("it", infiller, Scheduler(infiller.model), ServiceLimits())
    routes, running = infiller.model.routes, []

    def slow(*ids):
        running.append("begun")
        time.sleep(0.3)
        running.append("ended")
        return routes(*ids)

    async def asked():
        async with service.scheduler:
            (filled,) = await (await service.fill([TEXT], {})).filled()
            monkeypatch.setattr(infiller.model, "routes", slow)
            with pytest.raises(DeadlineError, match="where the tokens went was not known in time"):
                await service.routed(filled, time.monotonic() + 0.1)
            assert running == ["begun"]
            routed = await service.routed(filled, time.monotonic() + 30)
            assert running == ["begun", "ended", "begun", "ended"]
            return len(routed.source) == routed.encoder.shape[1]

    assert asyncio.run(asked())


@pytest.mark.parametrize(
    ("path", "root", "within"),
    [
        ("/v2/health/live", "", "/v2/health/live"),
        ("/demo/v2/health/live", "/demo", "/v2/health/live"),
        ("/demo", "/demo", "/"),
        ("/demography", "/demo", "/demography"),
        ("/v1/infill", "/demo", "/v1/infill"),
    ],
)
def test_paths_under_a_prefix(path, root, within):
    assert path_of({"path": path, "root_path": root}) == within
