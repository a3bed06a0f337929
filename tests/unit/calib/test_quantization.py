"""A variant comes into a bundle whole or not at all, also when it is killed, or interrupted at any move of a file."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pointsman.bundle import read_manifest, verify_files, write_manifest
from pointsman.bundle.writing import one_at_a_time
from pointsman.errors import BundleError, OptionsError
from pointsman.model import SwitchModel
from pointsman_calib import CoverageRule, Limits, quantization, quantize
from pointsman_calib.corpus.text import Corpus

SOURCE = "fused-float32"
LENIENT = Limits(max_loss_increase=100, min_agreement=0)

# The process sends itself a signal when it has written its last file and not yet put the folder in its place.
KILL = """
import os, pathlib, signal, sys
from pointsman_calib.cli.main import main
def killed(*arguments):
    os.kill(os.getpid(), getattr(signal, sys.argv[-1]))
pathlib.Path.rename = killed
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell inherit that it is ignored
sys.exit(main(sys.argv[1:-1]))
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("how", "code"), [("SIGKILL", -signal.SIGKILL), ("SIGTERM", 130), ("SIGINT", 130)])
def test_killed_in_the_middle(tiny_bundle, tmp_path, how, code):
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    before = contents(copy)
    done = subprocess.run(
        [sys.executable, "-c", KILL, "quantize", str(copy), "--scheme", "int8", how],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    if code == 130:
        assert done.stderr.splitlines()[-1] == "pointsman-calib: interrupted; the bundle is as it was"
        assert contents(copy) == before
    assert read_manifest(copy).variants.keys() == {SOURCE}
    SwitchModel.load(copy, device="cpu")
    quantize(copy, "int8")
    assert not list((copy / "variants").glob(".*"))
    verify_files(copy, read_manifest(copy).files())


class Interrupt:
    """Interrupts before or after the move of that number; a manifest is moved too, to replace the one before."""

    def __init__(self, monkeypatch, number: int, when: str) -> None:
        self.left, self.when = number, when
        for name in ("rename", "replace"):
            monkeypatch.setattr(Path, name, self.moving(getattr(Path, name)))

    def moving(self, move: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def moved(source: Path, target: Path) -> Path:
            self.left -= 1
            if self.left == -1 and self.when == "before":
                raise KeyboardInterrupt
            result = move(source, target)
            if self.left == -1 and self.when == "after":
                raise KeyboardInterrupt
            return result

        return moved


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("number", "kept"),
    [
        (0, True),  # the manifest without the variant: undone
        (1, None),  # the old folder away: undone before, and after it the variant is gone
        (2, False),  # the new one in its place
        (3, False),  # the manifest with it
    ],
)
def test_interrupted_while_a_variant_is_replaced(quantized_bundle, tmp_path, monkeypatch, number, when, kept):
    copy = shutil.copytree(quantized_bundle, tmp_path / "bundle")
    before, manifest = contents(copy), read_manifest(copy)
    with monkeypatch.context() as patched:
        Interrupt(patched, number, when)
        with pytest.raises(KeyboardInterrupt) as raised:
            quantize(copy, "int4", force=True)
    left = read_manifest(copy)
    verify_files(copy, left.files())
    if kept if kept is not None else when == "before":
        assert str(raised.value) == ""  # and so the command says that the bundle is as it was
        assert contents(copy) == before
    else:
        assert str(raised.value) == "fused-int4 was being put in its place: run the same command again"
        others = {name: variant for name, variant in manifest.variants.items() if name != "fused-int4"}
        assert {name: variant for name, variant in left.variants.items() if name != "fused-int4"} == others
    quantize(copy, "int4", force=True)
    assert not list((copy / "variants").glob(".*"))
    verify_files(copy, read_manifest(copy).files())


def test_the_same_weights_give_the_same_bytes(quantized_bundle, tmp_path):
    copy = shutil.copytree(quantized_bundle, tmp_path / "bundle")
    before, manifest = contents(copy / "variants"), read_manifest(copy)
    quantize(copy, "int8", force=True)
    assert contents(copy / "variants") == before
    assert read_manifest(copy) == manifest


@pytest.mark.slow  # a second calibration
def test_the_same_text_gives_the_same_bytes(quantized_bundle, calibration, tmp_path):
    copy = shutil.copytree(quantized_bundle, tmp_path / "bundle")
    before = contents(copy)
    quantize(copy, "int4", corpus=calibration, limits=LENIENT, coverage=CoverageRule(fewest_tokens=5), force=True)
    assert contents(copy) == before


def test_a_corpus_is_read_from_files(tiny_bundle, calibration_file, tmp_path):
    """Of 128 documents at most, in a window that this vocabulary has too few sentinels for."""
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    for corpus in (calibration_file, str(calibration_file), [calibration_file]):
        with pytest.raises(OptionsError, match=r"the window is 512 tokens|tokens need \d+ sentinels"):
            quantize(copy, "int8", corpus=corpus)


@pytest.mark.parametrize(
    ("scheme", "options", "sentence"),
    [
        ("int8", {"limits": LENIENT}, "limits are checked on a corpus: give one, or leave the limits out"),
        ("int5", {}, "unknown scheme 'int5'; use int8, int4, int8-qdq"),
        (
            "int8",
            {"coverage": CoverageRule()},
            "a corpus reaches experts, and here is none: give one, or leave the rule of coverage out",
        ),
        (
            "int8",
            {"limits": Limits(min_sqnr=3), "corpus": "c4.json"},
            "the signal-to-noise ratio is measured by comparisons only: leave min_sqnr out",
        ),
        ("int4", {"method": "mse"}, "int4 rounds activations as it runs: ranges of activations are for int8-qdq"),
        ("int8-qdq", {"method": "max"}, "unknown range method 'max'; use minmax, percentile, entropy, mse"),
    ],
)
def test_what_does_not_go_together(tiny_bundle, scheme, options, sentence):
    with pytest.raises(OptionsError) as raised:
        quantize(tiny_bundle, scheme, **options)
    assert str(raised.value) == sentence


def test_two_at_the_same_time(tiny_bundle, tmp_path):
    """Whoever changes the manifest waits for another who does: what that one has put in between would be lost."""
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    quantize(copy, scheme="int8")
    began = threading.Event()

    def second() -> None:
        began.set()
        quantization._update(copy, "fused-int8", None)

    with ThreadPoolExecutor(1) as pool:
        with one_at_a_time(copy):
            waiting = pool.submit(second)
            assert began.wait(30)
            manifest = read_manifest(copy)
            time.sleep(0.3)
            assert not waiting.done()
            write_manifest(replace(manifest, extra_ids=manifest.extra_ids - 1), copy)
        waiting.result(30)
    after = read_manifest(copy)
    assert after == replace(manifest, extra_ids=manifest.extra_ids - 1, variants=read_manifest(tiny_bundle).variants)


def test_a_vocabulary_that_was_changed(tiny_bundle, tmp_path):
    """Ids would be others, and whatever is rounded or judged by them."""
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    changed = copy / read_manifest(copy).tokenizer[0].path
    changed.write_bytes(changed.read_bytes() + b" ")
    (tmp_path / "text.jsonl").write_text('{"text": "The old pointsman waits by a box."}\n', encoding="utf-8")
    with pytest.raises(BundleError, match=changed.name):
        Corpus.read(copy, [tmp_path / "text.jsonl"])
