"""The command `pointsman inspect`: what is said of a bundle, for people and as JSON."""

import json
import shutil
import sys
from dataclasses import replace

import pytest
from small_bundles import engine, write_small_bundle

from places import EXAMPLES
from pointsman.backends import choice
from pointsman.backends.onnxruntime.weights import saturation
from pointsman.bundle import Calibration, Fidelity, Quantization, Sensitivity, write_manifest
from pointsman.cli import main as cli
from pointsman.inspection import as_text, inspect_bundle


def test_inspect_for_people(small_bundle, capsys):
    assert cli.main(["inspect", str(small_bundle), "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for sentence in (
        "tiny (sha256 000000000000…)",
        "tensors used: all but 1 tensor: old",
        "disagreement: config.json says 9 experts",
        "encoder of 4 blocks (2 sparse), decoder of 2 blocks (1 sparse)",
        "8 experts of capacity 64 in each sparse block",
        "vocabulary    78 pieces, 20 sentinels\n",
        "limits        128 tokens in and out\n",
        "memory        on a CPU, a variant's size and 100 MB, and for each token in and out 512 bytes",
        "all sizes and hashes are right",
        "fused-float32  4.7 kB, capacity 64",
        "2.5e-07 of 1.0e-04 allowed, worst at decoder.block.1; 100.00% of tokens go to the same expert",
        "would run     fused-float32 on cpu with onnxruntime\n              because device cpu was asked for",
    ):
        assert sentence in out


@pytest.mark.parametrize(
    ("calibrated", "sentences"),
    [
        (
            False,
            [
                "quantized from portable-float32, rounded to nearest, without a text",
                "what it loses was not measured; see pointsman-calib compare",
            ],
        ),
        (
            True,
            [
                "quantized from portable-float32, rounded to nearest, ranges observed on 1 document",
                "on that text the loss changed by +0.100%; 98.00% of span tokens agree, 97.00% of all tokens go to",
            ],
        ),
    ],
)
def test_inspect_says_what_is_known_of_a_quantized_variant(tmp_path, capsys, calibrated, sentences):
    """The parity of the variant that it comes from is not its own."""
    reached = Fidelity(loss_increase=0.001, agreement=0.98, expert_agreement=0.97)
    sensitivity = Sensitivity(
        labels=9, loss=7.0, reached=reached, nearest=reached, costs={}, rerouted={}, fine_inputs=(), float_weights=()
    )
    quantization = Quantization(
        scheme="int8-qdq",
        source="portable-float32",
        formats={},
        kept=(),
        rounding="nearest",
        calibration=Calibration(documents=("0" * 64,), seed=0, window=64) if calibrated else None,
        sensitivity=sensitivity if calibrated else None,
        producer={},
    )
    manifest = write_small_bundle(tmp_path / "bundle")
    quantized = replace(manifest.variants["portable-float32"], precision="int8-qdq", quantization=quantization)
    write_manifest(replace(manifest, variants={"portable-int8-qdq": quantized}), tmp_path / "bundle")
    assert cli.main(["inspect", str(tmp_path / "bundle")]) == 0
    out, _ = capsys.readouterr()
    assert all(sentence in out for sentence in sentences)
    assert "parity" not in out


def test_inspect_names_the_tokens_that_were_added(tmp_path, capsys):
    manifest = write_small_bundle(tmp_path / "bundle")
    added = {"98": {"content": "<name>", "special": True}, "99": {"content": "[URL]"}}
    config = tmp_path / "bundle/tokenizer/tokenizer_config.json"
    config.write_text(json.dumps({"added_tokens_decoder": added, "extra_ids": 20}))
    assert cli.main(["inspect", str(tmp_path / "bundle")]) == 0
    assert "vocabulary    78 pieces, 20 sentinels, 2 added tokens (<name>, [URL])\n" in capsys.readouterr().out
    assert cli.main(["inspect", str(tmp_path / "bundle"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["vocabulary"]
    assert found == {"pieces": 78, "sentinels": 20, "added": ["<name>", "[URL]"]}
    (tmp_path / "bundle" / manifest.tokenizer[0].path).write_bytes(b"damaged")
    assert cli.main(["inspect", str(tmp_path / "bundle")]) == 2
    assert "vocabulary    cannot be read\n" in capsys.readouterr().out


def test_inspect_shows_plans_and_which_are_out_of_date(tmp_path, capsys):
    manifest = write_small_bundle(tmp_path / "bundle")
    built = engine(tmp_path / "bundle", manifest.variants["portable-float32"])
    engines = (built, replace(built, role="encoder"))
    write_manifest(replace(manifest, engines=engines), tmp_path / "bundle")
    assert cli.main(["inspect", str(tmp_path / "bundle"), "--device", "cpu"]) == 0
    out, _ = capsys.readouterr()
    kind = "tensorrt-rtx 1.7.1.116, compute capability 8.9  2 kB, refittable"
    assert f"  portable-float32 decoder, {kind}\n" in out
    assert f"  portable-float32 encoder, {kind}, out of date: its variant was written anew\n" in out


def test_inspect_as_json(small_bundle, capsys):
    assert cli.main(["inspect", str(small_bundle), "--json", "--variant", "portable-float32"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["source"]["disagreements"] == ["config.json says 9 experts"]
    assert document["architecture"]["num_experts"] == 8
    assert document["choice"]["variant"] == "portable-float32"
    assert (document["damage"], document["refusal"]) == (None, None)
    shared_once = 1100 + 3600 + 4200
    assert document["bytes"] == document["tokenizer"][0]["bytes"] + shared_once
    assert document["variants"]["fused-float32"]["bytes"] == 4700
    assert document["variants"]["fused-float32"]["memory_bytes"] == 100_000_000 + 4700
    assert document["token_bytes"] == 2 * 2 * 4 * 8 * 4  # blocks, keys and values, heads, d_kv, bytes


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_inspect_shows_a_damaged_bundle_and_exits_2(small_bundle, tmp_path, capsys, form):
    bundle = shutil.copytree(small_bundle, tmp_path / "bundle")
    (bundle / "variants/float32/weights.bin").unlink()
    assert cli.main(["inspect", str(bundle), *form]) == 2
    out, err = capsys.readouterr()
    sentence = f"{bundle} is damaged: variants/float32/weights.bin is missing; export the bundle again"
    assert err == f"pointsman: {sentence}\n"
    assert (json.loads(out)["damage"] == sentence) if form else (f"files         {sentence}" in out)


def test_inspect_without_an_engine_still_says_what_the_bundle_is(small_bundle, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for module in [name for name in sys.modules if name.startswith("pointsman.backends.onnxruntime")]:
        monkeypatch.delitem(sys.modules, module)
    assert cli.main(["inspect", str(small_bundle)]) == 0
    assert "cannot run    ONNX Runtime is not installed; run pip install '.[cpu]'" in capsys.readouterr().out
    assert cli.main(["inspect", str(small_bundle), "--device", "cpu"]) == 2


def test_inspect_with_an_engine_that_cannot_be_imported(small_bundle, capsys, monkeypatch):
    """Its reason, and not that it is missing."""

    def failing(_):
        raise ImportError("DLL load failed:\n  the module was not found")

    monkeypatch.setattr(choice.importlib, "import_module", failing)
    assert cli.main(["inspect", str(small_bundle)]) == 0
    sentence = "ONNX Runtime cannot be imported here (DLL load failed: the module was not found); install it again"
    assert sentence in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (999_600, "1 MB"),
        (1_234_567, "1.23 MB"),
        (2e12, "2 TB"),
        (1e16, "1e+04 TB"),
    ],
)
def test_sizes(number, shown):
    from pointsman.inspection import size

    assert size(number) == shown


@pytest.mark.parametrize(
    ("saturates", "line"),
    [
        (True, "integers by other kernels: this processor's own products of bytes saturate"),
        (False, "integers by this processor's own products of bytes, which are exact"),
    ],
)
def test_by_which_kernels_integers_are_multiplied(monkeypatch, saturates, line):
    monkeypatch.setattr(saturation, "products_saturate", lambda: saturates)
    text = as_text(inspect_bundle(EXAMPLES / "demo_int8", device="cpu"))
    assert text.endswith(f"\n              {line}\n")
