"""`pointsman-calib quantize`: what it prints, and the one line for each thing that a person can get wrong."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import onnxruntime
import pytest
from text import WINDOW, Interrupted, random_examples, write_c4
from text import corpus as corpus_of

from conftest import installed
from places import EXAMPLES
from pointsman.bundle import read_manifest
from pointsman_calib.cli import corpus_arguments, summary
from pointsman_calib.cli.main import _parser, main
from pointsman_calib.ranges import corpus_pass

LENIENT = ("--min-agreement", 0, "--min-expert-agreement", 0, "--max-loss-increase", 100, "--window", WINDOW)


@pytest.fixture(autouse=True)
def _undisturbed():
    """The command sets a handler for SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_help_needs_nothing_that_is_not_installed():
    """What a subcommand needs, it alone asks for."""
    code = "import sys; sys.modules['onnx_ir'] = None; from pointsman_calib.cli.main import main; sys.exit(main())"
    for arguments, exit_code in ((["--help"], 0), (["--version"], 0), (["quantise"], 2), (["compare", "--help"], 2)):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == exit_code
        if arguments == ["--help"]:
            assert all(f"    {name} " in done.stdout for name in ("ranges", "quantize", "compare"))
        if exit_code == 2:
            assert done.stderr.startswith("pointsman-calib: ")
            assert done.stderr.count("\n") == 1


def test_which_release_this_is(capsys):
    with pytest.raises(SystemExit) as raised:
        main(["--version"])
    assert raised.value.code == 0
    assert capsys.readouterr().out == f"pointsman-calib {version('pointsman')}\n"


@pytest.fixture
def bundle(tiny_bundle, tmp_path) -> Path:
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def run(*arguments) -> int:
    return main(["quantize", *map(str, arguments)])


def state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def not_gzip(path: Path) -> Path:
    return write_c4(path.with_suffix(".json.gz"))


def cut_off(path: Path) -> Path:
    whole = gzip.compress(write_c4(path).read_bytes(), mtime=0)
    cut = path.with_suffix(".json.gz")
    cut.write_bytes(whole[: len(whole) - 9])
    return cut


def half_of_a_c4_file(path: Path) -> Path:
    whole = (EXAMPLES / "data/c4-sample-train.json.gz").read_bytes()
    cut = path.with_suffix(".json.gz")
    cut.write_bytes(whole[: len(whole) // 2])
    return cut


def not_json(path: Path) -> Path:
    path.write_text('{"text": "My sister waits in Xanten."}\n{"text": \n')
    return path


def without_text(path: Path) -> Path:
    path.write_text('{"url": "https://example.org"}\n')
    return path


def plain_text(path: Path) -> Path:
    path.write_text("My sister waits in Xanten.\n")
    return path


def too_long(path: Path) -> Path:
    return write_c4(path, [" ".join(["zebras"] * 400)])


def unusable(path: Path) -> Path:
    path.write_text('{"text": ""}\n{"text": "</s> waits in Xanten."}\n')
    return path


def absent(path: Path) -> Path:
    return path.with_name("absent.json")


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (
            not_gzip,
            "{path} is not gzip, though its name says so; download it again, or rename it to .json",
        ),
        (cut_off, "{path} is cut off after line 48; download it again"),
        (half_of_a_c4_file, "{path} is cut off after line 13; download it again"),
        (
            not_json,
            (
                "{path}:2 is broken JSON (Expecting value); "
                'a corpus has one JSON object a line, such as {{"text": "Once upon a time."}}'
            ),
        ),
        (
            without_text,
            '{path}:1 has no "text"; a corpus has one JSON object a line, such as {{"text": "Once upon a time."}}',
        ),
        (
            plain_text,
            (
                "{path}:1 is plain text, no JSON; a corpus has one JSON object a line, such as "
                '{{"text": "Once upon a time."}}'
            ),
        ),
        (
            unusable,
            (
                "of 2 documents none can be used: 2 of them too short, or with special tokens such as <extra_id_0> or "
                "</s>; give other text"
            ),
        ),
        (
            too_long,
            (
                "of 1 document none can be used: longer than 141 tokens; use a longer --window, or cut long ones with "
                "--too-long cut"
            ),
        ),
        (
            absent,
            "there is no file {path}; give files of JSON lines, patterns, or a dataset such as allenai/c4 on the hub",
        ),
    ],
)
def test_a_corpus_that_cannot_be_used(bundle, tmp_path, capsys, made, sentence):
    path, before = made(tmp_path / "c4.json"), state(bundle)
    assert run(bundle, "--scheme", "int8", "--corpus", path, "--window", WINDOW) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"pointsman-calib: {sentence.format(path=path)}\n")
    assert state(bundle) == before


def test_a_corpus_that_reaches_too_few_experts(bundle, tmp_path, capsys):
    before, corpus = state(bundle), write_c4(tmp_path / "c4.json")
    options = ("--min-expert-tokens", 10_000, "--max-thin-experts", 0.25)
    assert run(bundle, "--scheme", "int8", "--corpus", corpus, "--documents", 2, *options, *LENIENT) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "pointsman-calib: 32 of 32 experts were given fewer than 10000 tokens, and at most 25% may be: 24 of them need "
    )
    assert line.endswith(
        " tokens more; calibrate on more than these 2 documents, or accept fewer tokens with --min-expert-tokens, "
        "or more such experts with --max-thin-experts"
    )
    assert state(bundle) == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--scheme", "int5"), "argument --scheme: invalid choice: 'int5' (choose from "),
        (("--shceme", "int8"), "--shceme is no option (did you mean --scheme?); see pointsman-calib quantize --help"),
        ((), "the following arguments are required: --scheme; see pointsman-calib quantize --help"),
        (("--scheme", "int8", "--documents", "few"), "argument --documents: invalid int value: 'few'; see "),
        (("--scheme", "int8", "--min-agreement", "101"), "the least agreement is 101; give 0 to 100 percent"),
        (
            ("--scheme", "int8", "--max-loss-increase", "-1"),
            "the largest loss increase is -1; give 0 percent or more",
        ),
        (
            ("--scheme", "int8", "--max-loss-increase", "nan"),
            "the largest loss increase is nan; give 0 percent or more",
        ),
        (
            ("--scheme", "int8", "--min-expert-agreement", "101"),
            "the least expert agreement is 101; give 0 to 100 percent",
        ),
        (("--scheme", "int8", "--max-thin-experts", "2"), "the share of thin experts is 2; give 0 to 1"),
        (("--scheme", "int8", "--min-expert-tokens", "-1"), "the fewest tokens of an expert are -1; give 0 or more"),
    ],
)
def test_options_that_cannot_be(bundle, capsys, options, sentence):
    before = state(bundle)
    assert run(bundle, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pointsman-calib: {sentence}")
    assert state(bundle) == before


@pytest.mark.parametrize(
    ("scheme", "options", "named"),
    [
        ("int8", ("--documents", "5"), "--documents"),
        ("int8", ("--seed", "0"), "--seed"),
        ("int8", ("--window", "128"), "--window"),
        ("int4", ("--too-long", "cut"), "--too-long"),
        ("int8", ("--split", "train"), "--split"),
        ("int4", ("--max-loss-increase", "1"), "--max-loss-increase"),
        ("int8", ("--min-agreement", "99"), "--min-agreement"),
        ("int8", ("--min-expert-agreement", "99"), "--min-expert-agreement"),
        ("int8", ("--min-expert-tokens", "8"), "--min-expert-tokens"),
        ("int8", ("--max-thin-experts", "1"), "--max-thin-experts"),
    ],
)
def test_options_of_a_corpus_without_one(bundle, capsys, scheme, options, named):
    before = state(bundle)
    assert run(bundle, "--scheme", scheme, *options) == 2
    assert capsys.readouterr().err == (
        f"pointsman-calib: without a corpus, {named} has no effect; name one with --corpus, or leave it out\n"
    )
    assert state(bundle) == before


def test_what_a_table_of_ranges_is_read_with(exports, tmp_path, capsys):
    """It says what experts were given, and is of a corpus that was read."""
    folder, table = shutil.copytree(exports("tied", "portable").folder, tmp_path / "portable"), tmp_path / "ranges.json"
    corpus = ("--corpus", str(write_c4(tmp_path / "c4.json")), "--documents", "2", "--window", str(WINDOW))
    assert main(["ranges", str(folder), "-o", str(table), *corpus]) == 0
    options = ("--scheme", "int8-qdq", "--ranges", table, "--min-expert-tokens", 0, "--max-thin-experts", 1)
    assert run(folder, *options, "--documents", 2) == 2
    assert "without a corpus, --documents has no effect" in capsys.readouterr().err
    assert run(folder, *options) == 0


@pytest.mark.parametrize("command", ["quantize", "ranges", "compare"])
def test_a_window_longer_than_the_bundle_takes(bundle, tmp_path, capsys, command):
    options = {"quantize": ["--scheme", "int8"], "ranges": ["-o", str(tmp_path / "ranges.json")], "compare": []}
    limit = read_manifest(bundle).limits.tokens
    if command == "compare":
        assert run(bundle, "--scheme", "int8") == 0
        capsys.readouterr()
    before = state(bundle)
    arguments = [str(bundle), "--corpus", str(tmp_path / "absent.json"), "--window", str(limit + 1)]
    assert main([command, *arguments, *options[command]]) == 2
    assert capsys.readouterr().err == (
        f"pointsman-calib: the window is {limit + 1} tokens and the bundle takes at most {limit}; shorten it\n"
    )
    assert state(bundle) == before


@pytest.mark.parametrize("command", ["quantize", "ranges", "compare"])
def test_a_gpu_that_is_not_there(bundle, tmp_path, capsys, monkeypatch, command):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    options = {"quantize": ["--scheme", "int8"], "ranges": ["-o", str(tmp_path / "ranges.json")], "compare": []}
    if command == "compare":
        assert run(bundle, "--scheme", "int8") == 0
        capsys.readouterr()
    before = state(bundle)
    corpus = ["--corpus", str(tmp_path / "absent.json")]  # which is not looked for
    assert main([command, str(bundle), *corpus, "--device", "cuda", *options[command]]) == 2
    said = capsys.readouterr().err
    assert said.startswith("pointsman-calib: the installed ONNX Runtime has no CUDA; ")
    assert said.count("\n") == 1
    assert state(bundle) == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--percentile", "200"), "--percentile is 200.0; it must be above 0 and at most 100"),
        (("--percentile", "nan"), "--percentile is nan; it must be above 0 and at most 100"),
        (("-o", "."), ". is a folder; name a file in a folder that is there for --output"),
        (("-o", "no/ranges.json"), "there is no folder no; name a file in a folder that is there for --output"),
    ],
)
def test_ranges_that_could_not_be_written(tmp_path, monkeypatch, capsys, options, sentence):
    """It is refused before anything is read: neither bundle nor corpus is there."""
    monkeypatch.chdir(tmp_path)
    assert main(["ranges", "bundle", "--corpus", "c4.json", "-o", "ranges.json", *options]) == 2
    assert capsys.readouterr().err == f"pointsman-calib: {sentence}\n"


@pytest.mark.parametrize(
    ("documents", "sentence"),
    [
        (0, "the bundle is as it was"),
        (2, "progress is kept in {path}.partial, and the same command goes on from there"),
    ],
)
def test_ranges_that_are_interrupted(exports, tmp_path, monkeypatch, capsys, documents, sentence):
    monkeypatch.setattr(corpus_pass, "DOCUMENTS_AT_ONCE", 2)
    text = corpus_of(Interrupted(random_examples(2, [(9, 4)] * 5), documents))
    monkeypatch.setattr("pointsman_calib.cli.corpus_arguments.read", lambda parsed: text)
    path = tmp_path / "ranges.json"
    assert main(["ranges", str(exports("tied", "portable").folder), "--corpus", "c4.json", "-o", str(path)]) == 130
    assert capsys.readouterr().err == f"pointsman-calib: interrupted; {sentence.format(path=path)}\n"


@pytest.mark.slow  # several calibrations; the sentence is `test_search.py`'s too
def test_limits_that_nothing_but_float_holds(bundle, tmp_path, capsys):
    before, corpus = state(bundle), write_c4(tmp_path / "c4.json")
    options = ("--corpus", corpus, "--documents", 8, "--window", WINDOW, "--max-loss-increase", 0)
    perfect = ("--min-agreement", 100, "--min-expert-agreement", 100)
    assert run(bundle, "--scheme", "int4", *options, *perfect) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "pointsman-calib: no layer can be quantized within these limits; loosen --max-loss-increase, --min-agreement "
        "or --min-expert-agreement"
    )
    assert state(bundle) == before


@pytest.mark.parametrize(("smaller", "reported"), [(0, True), (1, False)])
def test_a_variant_that_is_not_smaller(bundle, capsys, monkeypatch, smaller, reported):
    monkeypatch.setattr(
        "pointsman_calib.cli.quantize._size",
        lambda variant: 2_000_000 - (smaller if variant.quantization else 0),
    )
    assert run(bundle, "--scheme", "int8") == 0
    sentence = (
        "pointsman-calib: fused-int8 is not smaller than fused-float32 (2.0 MB); serve that one, or keep less in "
        "float with looser limits\n"
    )
    assert capsys.readouterr().err == (sentence if reported else "")


def test_no_bundle(tmp_path, capsys):
    assert run(tmp_path, "--scheme", "int8") == 2
    assert capsys.readouterr().err == (
        f"pointsman-calib: {tmp_path} is not a bundle (no manifest.json); make one with `pointsman-export bundle`\n"
    )


def test_a_bundle_without_its_float_variant(exports, capsys):
    folder = exports("tied", "portable").folder
    before = state(folder)
    assert run(folder, "--scheme", "int4", "--corpus", folder / "absent.json") == 2  # which is not looked for
    assert capsys.readouterr().err == (
        f"pointsman-calib: {folder} has no fused-float32 variant to quantize; "
        "export it with `pointsman-export bundle --form fused --dtype float32`\n"
    )
    assert state(folder) == before


def test_a_damaged_bundle(bundle, capsys):
    weights = bundle / "variants/float32/weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert run(bundle, "--scheme", "int8") == 2
    assert (
        "pointsman-calib: " + str(bundle) + " is damaged: variants/float32/weights.bin has" in capsys.readouterr().err
    )


def test_a_variant_that_exists(bundle, capsys):
    assert run(bundle, "--scheme", "int8") == 0
    assert capsys.readouterr().out.startswith("fused-int8: ")
    before = state(bundle)
    assert run(bundle, "--scheme", "int8") == 2
    assert capsys.readouterr().err == (
        f"pointsman-calib: {bundle} has a fused-int8 variant already; replace it with --force\n"
    )
    assert state(bundle) == before
    assert run(bundle, "--scheme", "int8", "--corpus", bundle / "absent.json") == 2
    assert "has a fused-int8 variant already" in capsys.readouterr().err  # before the corpus is looked for
    assert run(bundle, "--scheme", "int8", "--force") == 0
    assert state(bundle) == before


def test_it_says_what_was_measured(bundle, tmp_path, capsys):
    corpus = write_c4(tmp_path / "c4.json")
    assert run(bundle, "--scheme", "int8", "--corpus", corpus, "--documents", 16, *LENIENT) == 0
    printed = capsys.readouterr()
    size, used, experts, losses, nearest, weights, *advice, fill, measure = printed.out.splitlines()
    quantization = read_manifest(bundle).variants["fused-int8"].quantization
    assert advice == [said for said in [summary.nearest_loses_less(quantization)] if said]
    assert "pointsman-calib: fused-float32 itself finds the right tokens no better than chance: " in printed.err
    assert len(quantization.calibration.documents) == 16
    assert size.startswith("fused-int8: ")
    thin = sum(map(len, quantization.coverage.thin.values()))
    each = "8 in each of 4 sparse layers"
    assert experts == f"experts with fewer than 64 tokens, and so rounded to nearest: {thin} of 32 ({each})"
    assert used == "corpus: 16 of 48 documents; --documents takes more"
    labels = quantization.sensitivity.labels
    assert losses.startswith(f"on the corpus: {labels} span tokens (of the words that were hidden), loss ")
    assert f"pointsman-calib: Few labels: 16 documents with {labels} span tokens, the tokens that " in printed.err
    assert f" {quantization.sensitivity.reached.agreement:.2%} of span tokens agree, " in losses
    assert nearest.startswith(
        f"rounded to nearest, it would be {quantization.sensitivity.nearest.loss_increase:+.3%}, "
    )
    count = len(quantization.formats)
    assert weights == f"{count} of {count} weights in int8"
    sentence = "'The <extra_id_0> walks in <extra_id_1> park.'"
    assert fill == f"fill with it: pointsman infill {bundle} {sentence} --variant fused-int8"
    compare = f"pointsman-calib compare {bundle} --candidate fused-int8 --corpus FILES"
    assert measure == f"measure it on other text: {compare}"


@pytest.mark.slow  # two calibrations of several runs each
def test_the_same_command_gives_the_same_bytes(bundle, tmp_path):
    """Rounded for a text and kept in float for limits, in processes that hash and so iterate differently."""
    corpus = write_c4(tmp_path / "c4.json")
    options = ("--scheme", "int8", "--corpus", corpus, "--documents", 16, *LENIENT, "--min-agreement", 70)
    copies = [shutil.copytree(bundle, tmp_path / f"copy-{seed}") for seed in "12"]
    for seed, copy in enumerate(copies, start=1):
        command = [installed("pointsman-calib"), "quantize", copy, *map(str, options)]
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": str(seed)}, check=True, capture_output=True)
    once, again = map(state, copies)
    assert once == again
    assert read_manifest(copies[0]).variants["fused-int8"].quantization.sensitivity.costs  # something was kept in float


@pytest.mark.parametrize(
    ("longest", "options", "said"),
    [
        (1, (), "all 48 documents"),
        (1, ("--documents", 7), "7 of 48 documents; --documents takes more"),
        (400, (), "47 of 48 documents; the others are too long (--too-long cut), too short or spell special"),
    ],
)
def test_how_much_of_a_corpus_is_used(bundle, tmp_path, longest, options, said):
    path = write_c4(tmp_path / "c4.json")
    first, *others = (json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines())
    write_c4(path, [" ".join([first] * longest), *others])
    arguments = ["quantize", bundle, "--scheme", "int8", "--corpus", path, "--window", WINDOW, *options]
    parsed = _parser().parse_args([*map(str, arguments)])
    assert said in corpus_arguments.used(parsed, corpus_arguments.read(parsed))


def test_how_much_of_a_large_corpus_is_used(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_arguments, "_MOST_COUNTED", 20)
    arguments = ["quantize", bundle, "--scheme", "int8", "--corpus", write_c4(tmp_path / "c4.json"), "--documents", 7]
    parsed = _parser().parse_args([*map(str, [*arguments, "--window", WINDOW])])
    said = corpus_arguments.used(parsed, corpus_arguments.read(parsed))
    assert said == "7 of more than 20 documents; --documents takes more"
