"""Files of texts, filled by an engine that computes nothing."""

import json

import pytest
from batch_texts import VOCAB
from fake_backend import wandering
from small_bundles import fake_infiller

from pointsman.cli import main as cli
from pointsman.infill import Infiller


@pytest.fixture
def infiller(manifest, tokenizer, monkeypatch) -> Infiller:
    """What every bundle is taken for."""
    made = fake_infiller(manifest, tokenizer, wandering(VOCAB))
    monkeypatch.setattr(Infiller, "load", lambda *arguments, **keywords: made)
    return made


@pytest.fixture
def run(infiller, tmp_path, capsys):
    """Fills a file of texts; gives exit code, records and what was said, but for how lines are taken."""

    def use(content: str | bytes, *options: str):
        path = tmp_path / "texts"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        code = cli.main(["infill", "b", "--input", str(path), "--jsonl", *options])
        out, err = capsys.readouterr()
        said = [line for line in err.splitlines(keepends=True) if not line.startswith("pointsman: lines are taken as ")]
        return code, [json.loads(line) for line in out.splitlines()], "".join(said)

    return use


@pytest.fixture
def job(run, tmp_path):
    """Fills a file of texts into `records`; gives exit code and what was said."""
    output = tmp_path / "records"

    def use(content: str, *options: str):
        code, printed, err = run(content, "--output", str(output), *options)
        assert printed == []
        return code, err

    use.output, use.beside = output, tmp_path / "records.job"
    return use
