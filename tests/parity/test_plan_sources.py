"""What plans are built from are the very files whose tokens are those of transformers."""

import shutil
from pathlib import Path

import pytest

from checkpoints import reference
from parity.decoding_reference import theirs
from parity.test_tokens import batch, sequences
from plans import build
from pointsman.bundle import sha256_of
from pointsman.decoding import DecodingOptions
from unit.backends.host_onnxruntime import on_the_host

LENGTHS = (5, 12, 3)
OPTIONS = (DecodingOptions(max_new_tokens=14), DecodingOptions(max_new_tokens=14, num_beams=4))


@pytest.mark.parametrize("checkpoint", ["tied", pytest.param("all-sparse", marks=pytest.mark.slow)])
def test_tokens_of_what_was_built_from(exports, tmp_path, checkpoint):
    export = exports(checkpoint, "portable")
    folder = Path(shutil.copytree(export.folder, tmp_path / "bundle"))
    manifest = build(folder, "--compute-capability", "8.9")
    model = on_the_host(folder, "portable-float32")
    network = reference(export.checkpoint)
    for options in OPTIONS:
        got = model.generate(sequences(batch(LENGTHS)), options)
        expected = theirs(network, batch(LENGTHS), options)
        assert [[each.token_ids for each in of_input] for of_input in got] == expected.token_ids
    for engine in manifest.engines:
        graph, weights = engine.built_from
        assert graph.path == model.manifest.variants["portable-float32"].graph_of_one_position(engine.role).file
        assert graph.sha256 == sha256_of(folder / graph.path) == sha256_of(export.folder / graph.path)
        assert weights.sha256 == sha256_of(folder / weights.path)
