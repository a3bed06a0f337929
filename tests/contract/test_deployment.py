"""The Dockerfile and the KServe manifest say of the project what is so; neither can be run here."""

import re
import shlex
import tomllib

import pytest
import yaml

from places import ROOT
from pointsman.cli.main import main

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
(SERVICE,) = yaml.safe_load_all((ROOT / "examples/kserve/inference-service.yaml").read_text(encoding="utf-8"))


def test_the_image_is_made_of_what_is_there():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = shlex.split(line)
        for source in sources:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored


def test_the_image_installs_extras_that_there_are():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = re.findall(r"\.whl\)\[([\w,-]+)\]", DOCKERFILE)
    assert len(found) == 2
    assert {extra for one in found for extra in one.split(",")} <= set(extras)


@pytest.mark.parametrize("kind", ["docker", "kserve"])
def test_the_command_is_understood(kind, capsys, tmp_path):
    if kind == "docker":
        arguments = yaml.safe_load(re.search(r"^CMD (\[.+\])$", DOCKERFILE, re.MULTILINE)[1])
    else:
        (container,) = SERVICE["spec"]["predictor"]["containers"]
        arguments = container["args"]
    keys = tmp_path / "api-keys"
    keys.write_text("a-key-of-some-length")
    there = [str(keys) if argument == "/keys/api-keys" else argument for argument in arguments]
    assert main(["serve", *there]) == 2  # the bundle is the only thing that is missing
    assert re.search(r"(/bundle|/mnt/models)\b.*(no bundle|is no|not)", capsys.readouterr().err)


def test_the_manifest_probes_what_the_service_answers():
    predictor = SERVICE["spec"]["predictor"]
    (container,) = predictor["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"
    drain = int(container["args"][container["args"].index("--drain-timeout") + 1])
    assert drain + 5 < predictor["terminationGracePeriodSeconds"]
