"""The manifest: there and back, and what people read when a bundle is not sound."""

import hashlib
import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from small_bundles import ARCHITECTURE, PROFILE, engine, flip_a_bit, write_small_bundle

from pointsman.bundle import (
    decoder_specs,
    encoder_specs,
    read_manifest,
    record_of,
    verify_files,
    write_manifest,
)
from pointsman.errors import BundleError, BundleNotFoundError, OutputError

WEIGHTS = "variants/float32/weights.bin"


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))


def edited(bundle: Path, edit) -> Path:
    """The bundle with an edited manifest under a checksum that fits."""
    path = bundle / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["sha256"]
    edit(document)
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps(document | {"sha256": hashlib.sha256(canonical.encode()).hexdigest()}))
    return bundle


def test_there_and_back(tmp_path):
    written = write_small_bundle(tmp_path / "bundle")
    assert read_manifest(tmp_path / "bundle") == written


def with_engine(folder: Path) -> Path:
    """A bundle of one plan."""
    manifest = write_small_bundle(folder)
    built = engine(folder, manifest.variants["portable-float32"])
    write_manifest(replace(manifest, engines=(built,)), folder)
    return folder


def test_engines_there_and_back(tmp_path):
    manifest = read_manifest(with_engine(tmp_path / "bundle"))
    (found,) = manifest.engines
    assert found.file.path == "engines/tensorrt-rtx-sm89/portable-float32/decoder.plan"
    assert found.key == ("tensorrt-rtx", "8.9", "portable-float32", "decoder")
    assert found.profiles == (PROFILE,)
    assert manifest.is_current(found)


def test_a_changed_plan_is_found(tmp_path):
    bundle = with_engine(tmp_path / "bundle")
    (found,) = read_manifest(bundle).engines
    flip_a_bit(bundle / found.file.path)
    with pytest.raises(BundleError, match=r"decoder.plan was changed \(its sha256 differs\)"):
        verify_files(bundle, read_manifest(bundle).files())


def test_a_plan_is_built_from_its_graph_and_the_weights(tmp_path):
    variant = read_manifest(with_engine(tmp_path / "bundle")).variants["portable-float32"]
    sources = {role: [record.path for record in variant.sources(role)] for role in ("encoder", "decoder")}
    folder = "variants/float32"
    assert sources == {role: [f"{folder}/portable.{role}.onnx", f"{folder}/weights.bin"] for role in sources}


@pytest.mark.parametrize(
    ("file", "current"), [(0, True), (1, False), (2, False)], ids=["encoder", "decoder", "weights"]
)
def test_a_plan_is_out_of_date_when_what_it_was_built_from_was_written_anew(tmp_path, file, current):
    manifest = read_manifest(with_engine(tmp_path / "bundle"))
    variant = manifest.variants["portable-float32"]
    paths = [variant.encoder.file, variant.decoder.file, WEIGHTS]
    files = [replace(record, sha256="f" * 64) if record.path == paths[file] else record for record in variant.files]
    anew = replace(manifest, variants={"portable-float32": replace(variant, files=tuple(files))})
    assert anew.is_current(manifest.engines[0]) is current
    assert not replace(manifest, variants={}).is_current(manifest.engines[0])


@pytest.mark.parametrize(
    ("sizes", "admitted"),
    [
        ({"rows": 1, "source": 128, "capacity": 64}, True),
        ({"rows": 1, "source": 129, "capacity": 64}, False),
        ({"rows": 2, "source": 5, "capacity": 64}, False),
        ({"rows": 1, "source": 5, "capacity": 160}, False),
        ({"rows": 1, "source": 0, "capacity": 64}, False),
    ],
)
def test_a_profile_admits(sizes, admitted):
    assert PROFILE.admits(sizes | {"batch": 1, "positions": 1, "width": 1}) is admitted


def test_a_profile_gives_the_shapes_of_inputs():
    inputs, _ = decoder_specs(ARCHITECTURE, "float32")
    shapes = {spec.name: PROFILE.shapes(spec) for spec in inputs}
    assert shapes["input_ids"] == ((1, 1), (1, 1), (1, 1))
    assert shapes["cross_key.1"] == ((1, 4, 8, 1), (1, 4, 8, 64), (1, 4, 8, 128))
    assert shapes["past_value.0"] == ((1, 4, 32, 8), (1, 4, 64, 8), (1, 4, 128, 8))


def test_a_disk_that_is_full_leaves_the_manifest_as_it_was(bundle):
    """The kernel refuses, as on a full disk: the file may not grow."""
    before = (bundle / "manifest.json").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        sentence = r"^cannot write manifest.json \(File too large\); free some space or choose another output folder$"
        with pytest.raises(OutputError, match=sentence):
            write_manifest(read_manifest(bundle), bundle)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (bundle / "manifest.json").read_bytes() == before
    assert not (bundle / ".manifest.json.partial").exists()


@pytest.mark.parametrize("place", ["nowhere", ".", "a file"])
def test_no_bundle(tmp_path, place):
    (tmp_path / "a file").write_text("x")
    with pytest.raises(BundleNotFoundError, match=r"is not a bundle \(no manifest.json\); make one with"):
        read_manifest(tmp_path / place)


def test_a_manifest_that_is_a_folder(tmp_path):
    path = tmp_path / "manifest.json"
    path.mkdir()
    with pytest.raises(BundleError) as caught:
        read_manifest(tmp_path)
    assert str(caught.value) == f"cannot read {path} (Is a directory); check its path and its permissions"


def test_a_path_longer_than_the_system_allows(tmp_path):
    with pytest.raises(BundleError, match=r"manifest.json \(File name too long\); check its path and its permissions$"):
        read_manifest(tmp_path / ("x" * 5000))


@pytest.mark.parametrize("file", ["manifest.json", WEIGHTS])
def test_a_file_that_may_not_be_read(bundle, monkeypatch, file):
    manifest, opened = read_manifest(bundle), Path.open

    def refuse(path, *arguments, **keywords):
        if path == bundle / file:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BundleError) as caught:
        read_manifest(bundle) if file == "manifest.json" else verify_files(bundle, manifest.files())
    assert str(caught.value) == f"cannot read {bundle / file} (Permission denied); check its path and its permissions"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe{}", b"schema: 1", b"[" * 100_000, b'{"schema": ' + b"9" * 5000 + b"}"]
)
def test_not_json(bundle, content):
    (bundle / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"is not valid JSON .*; export the bundle again"):
        read_manifest(bundle)


@pytest.mark.parametrize("content", [b"[]", b"null", b"3"])
def test_json_that_is_no_manifest(bundle, content):
    (bundle / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match="the document must be an object"):
        read_manifest(bundle)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"extra_ids": 20', b'"extra_ids": 21'),
        (b'"name": "tiny"', b'"name": "tiey"'),
        (b'"max_error": 2.5e-07', b'"max_error": 2.5e-08'),
        (b'"sha256": "', b'"sha256": "0'),
    ],
    ids=["a number", "a name", "an exponent", "a hash"],
)
def test_a_changed_manifest_is_found(bundle, before, after):
    path = bundle / "manifest.json"
    content = path.read_bytes()
    assert before in content
    path.write_bytes(content.replace(before, after))
    with pytest.raises(BundleError) as caught:
        read_manifest(bundle)
    assert str(caught.value) == f"{path} was changed (its sha256 differs); export the bundle again"


def test_the_order_of_keys_and_white_space_do_not_count(bundle):
    before = read_manifest(bundle)
    document = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(dict(sorted(document.items()))))
    assert read_manifest(bundle) == before


def test_a_manifest_without_a_checksum_is_refused_with_all_else(bundle):
    path = bundle / "manifest.json"
    document = json.loads(path.read_text())
    del document["sha256"]
    path.write_text(json.dumps(document | {"novelty": 1}))
    with pytest.raises(BundleError, match="sha256 is missing; novelty is unknown; export the bundle again"):
        read_manifest(bundle)


def test_newer_schema_is_refused_before_its_keys(bundle):
    edited(bundle, lambda document: document.update(schema=5, novelty=True))
    with pytest.raises(BundleError, match="has schema 5 and this pointsman reads 4; upgrade pointsman") as caught:
        read_manifest(bundle)
    assert "novelty" not in str(caught.value)


@pytest.mark.parametrize("schema", [0, 1, 2, 3])
def test_earlier_schemas_are_refused(bundle, schema):
    edited(bundle, lambda document: document.update(schema=schema))
    sentence = (
        f"has schema {schema} and this pointsman reads 4, in which decoder steps have another interface; "
        "export the bundle again with `pointsman-export bundle`"
    )
    with pytest.raises(BundleError, match=sentence):
        read_manifest(bundle)


def test_all_problems_at_once_in_one_line(bundle):
    def spoil(document):
        document["novelty"] = 1
        del document["limits"]
        document["architecture"]["d_model"] = "wide"
        document["variants"]["fused-float32"]["form"] = "liquid"
        document["variants"]["fused-float32"]["files"][0]["sha256"] = None

    with pytest.raises(BundleError) as caught:
        read_manifest(edited(bundle, spoil))
    message = str(caught.value)
    assert "\n" not in message
    for problem in (
        "novelty is unknown",
        "limits is missing",
        "architecture.d_model must be int, not 'wide'",
        "variants.fused-float32.form must be one of 'portable', 'fused', not 'liquid'",
        "variants.fused-float32.files[0].sha256 must be str, not None",
    ):
        assert problem in message


def set_in(*place_and_value):
    """An edit of the document: a value at a place."""
    *place, last, value = place_and_value

    def edit(document):
        for key in place:
            document = document[key]
        document[last] = value

    return edit


FUSED = ("variants", "fused-float32")


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (
            set_in("generation", {"source": "generation_config.json", "bad_words_ids": [[3, 128]]}),
            "generation has the id 128, and ids are from 0 to 127",
        ),
        (set_in("variants", {}), "variants has none"),
        (
            set_in(*FUSED, "encoder", "file", "elsewhere.onnx"),
            "variants.fused-float32.encoder.file 'elsewhere.onnx' is not among its variant's files",
        ),
        (set_in("tokenizer", []), "tokenizer lists neither tokenizer/tokenizer.json nor tokenizer/spiece.model"),
        (set_in(*FUSED, "files", 0, "path", "/etc/passwd"), "'/etc/passwd' must be a path inside the bundle"),
        (set_in(*FUSED, "files", 0, "path", "variants/../../x"), "'variants/../../x' must be a path inside the bundle"),
        (set_in(*FUSED, "files", 0, "path", "a\nb"), "'a\\nb' must be a path inside the bundle"),
        (set_in(*FUSED, "files", 0, "path", ""), "'' must be a path inside the bundle"),
        (set_in("limits", "tokens", 0), "limits.tokens must be at least 1, not 0"),
        (set_in("architecture", "eos_token_id", 128), "architecture.eos_token_id must be from 0 to 127, not 128"),
        (set_in("architecture", "pad_token_id", -1), "architecture.pad_token_id must be from 0 to 127, not -1"),
        (
            set_in("architecture", "decoder_start_token_id", 128),
            "architecture.decoder_start_token_id must be from 0 to 127, not 128",
        ),
        (set_in("extra_ids", 99_999_999_999), "extra_ids must be from 0 to 128, not 99999999999"),
        (
            set_in(*FUSED, "encoder", "inputs", 1, "name", "mask"),
            (
                "variants.fused-float32.encoder.inputs are not those of the architecture ('mask' of int64 "
                "['batch', 'source'] instead of 'attention_mask' of int64 ['batch', 'source'])"
            ),
        ),
        (
            set_in(*FUSED, "decoder", "outputs", []),
            (
                "variants.fused-float32.decoder.outputs are not those of the architecture (nothing instead of 'logits' "
                "of float32 ['rows', 'positions', 128])"
            ),
        ),
        (
            set_in(*FUSED, "precision", "float16"),
            (
                "variants.fused-float16.encoder.outputs are not those of the architecture ('cross_key.0' of float32 "
                "['batch', 4, 8, 'source'] instead of 'cross_key.0' of float16 ['batch', 4, 8, 'source'])"
            ),
        ),
    ],
)
def test_a_manifest_that_contradicts_itself(bundle, edit, problem):
    with pytest.raises(BundleError) as caught:
        read_manifest(edited(bundle, edit))
    message = str(caught.value)
    assert message.startswith(f"{bundle / 'manifest.json'} contradicts itself: ")
    assert problem in message
    assert message.endswith("; export the bundle again")
    assert "\n" not in message


def test_all_contradictions_at_once(bundle):
    def spoil(document):
        document["limits"]["tokens"] = -1
        document["variants"] = {}

    with pytest.raises(BundleError, match=r"limits.tokens must .*; variants has none; export"):
        read_manifest(edited(bundle, spoil))


def rename_and_set(name, field, value):
    """An edit of the document: the fused variant under another name, and with another value."""

    def edit(document):
        document["variants"][name] = document["variants"].pop("fused-float32") | {field: value}

    return edit


def test_variants_are_named_by_form_and_precision(bundle):
    with pytest.raises(BundleError, match=r"variants.'a\\nb' must be named fused-float32; export"):
        read_manifest(edited(bundle, rename_and_set("a\nb", "form", "fused")))


def test_quantized_variants_keep_float32_between_graphs(bundle):
    read_manifest(edited(bundle, rename_and_set("fused-int8", "precision", "int8")))


def test_keys_that_cannot_be_printed(bundle):
    def spoil(document):
        document["no\nvelty"] = 1
        document["producer"]["\r\ud800"] = 2

    with pytest.raises(BundleError) as caught:
        read_manifest(edited(bundle, spoil))
    assert r"no\nvelty is unknown; producer.\r\ud800 must be str, not 2;" in str(caught.value)


def test_shared_files_are_listed_once(small_bundle):
    paths = [record.path for record in read_manifest(small_bundle).files()]
    assert len(paths) == len(set(paths)) == 6
    assert WEIGHTS in paths


def test_records_use_forward_slashes(small_bundle):
    record = record_of(small_bundle, small_bundle / "variants" / "float32" / "weights.bin")
    assert record.path == WEIGHTS


def test_specs_agree_on_what_passes_from_encoder_to_decoder():
    _, cross = encoder_specs(ARCHITECTURE, "float32")
    inputs, outputs = decoder_specs(ARCHITECTURE, "float32")
    assert len(cross) == 2 * ARCHITECTURE.decoder.layers
    assert set(cross) <= set(inputs)
    past = [spec.name for spec in inputs if spec.name.startswith("past_")]
    assert [spec.name.replace("present_", "past_") for spec in outputs[1:]] == past
    assert outputs[0].axes == ("rows", "positions", ARCHITECTURE.vocab_size)
