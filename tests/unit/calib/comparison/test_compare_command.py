"""`pointsman-calib compare`: what it prints and writes, its exit codes, and its lines for what a person gets wrong."""

import json
import sys

import pytest

from pointsman_calib.cli.main import main


@pytest.fixture
def compare(quantized_bundle, evaluation_file, capsys):
    """Run the command on the small bundle and give its exit code, stdout and stderr."""

    def run(*arguments, corpus=evaluation_file):
        options = ["--window", "256", "--generations", "0", *map(str, arguments)]
        code = main(["compare", str(quantized_bundle), "--corpus", str(corpus), *options])
        return code, *capsys.readouterr()

    return run


def test_tables_for_people_and_a_report(compare, tmp_path):
    report = tmp_path / "report.html"
    code, out, error = compare("--generations", 1, "--report", report)
    assert code == 0
    assert out.startswith("corpus: all 10 documents\n10 documents (sha256 ")
    costs, *_ = out.split("\n\n")[1:]
    assert [row.split()[0] for row in costs.splitlines()[1:]] == ["fused-float32", "fused-int8", "fused-int4"]
    assert "residual after" in out
    assert "all limits hold" not in out  # none were set
    assert report.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    *_, guessing, wrote = error.splitlines()  # how far it is stands before them, where it takes long
    assert guessing.startswith("pointsman-calib: fused-float32 itself finds the right tokens no better than chance: ")
    assert wrote == f"pointsman-calib: wrote {report}"


def test_one_json_document_of_limits_that_hold(compare):
    code, out, error = compare(
        *("--json", "--candidate", "fused-int4", "--documents", 3, "--max-loss-increase", 1000),
        *("--min-agreement", 1, "--min-expert-agreement", 1, "--min-sqnr", 1),
    )
    assert code == 0
    document = json.loads(out)
    assert document["limits"] == {
        "max_loss_increase": 1000, "min_agreement": 1, "min_expert_agreement": 1, "min_sqnr": 1
    }  # fmt: skip
    assert [candidate["variant"]["name"] for candidate in document["candidates"]] == ["fused-int4"]
    assert document["evaluation"]["documents"] == 3
    assert "increase (95 % interval)" in error
    assert "FAILED" not in error
    assert "corpus: 3 of 10 documents; --documents takes more\n" in error
    *_, hold, guessing = error.splitlines()
    assert hold == (
        "all limits hold: the loss at most 1000 % above the baseline's; at least 1 % of tokens the baseline's; "
        "at least 1 % of tokens at the baseline's expert; logits at least 1 dB above their error"
    )
    assert guessing.startswith("pointsman-calib: fused-float32 itself ")


def test_limits_that_do_not(compare):
    limits = ("--min-agreement", 100, "--min-expert-agreement", 100, "--min-sqnr", 90)
    code, out, _ = compare("--candidate", "fused-int4", *limits)
    assert code == 1
    assert "all limits hold" not in out
    failed = [line for line in out.splitlines() if line.startswith("FAILED fused-int4: ")]
    assert [line.rpartition("; ")[2] for line in failed] == [
        "at least 100 % must be so", "at least 100 % must be so", "it must be 90 dB at least"
    ]  # fmt: skip


def test_a_loss_above_the_limit(compare, comparison):
    """Of a model that learned nothing the loss falls as easily as it rises: what rises is taken for the candidate."""
    pair = ["fused-float32", "fused-int4"]
    if comparison.candidates[1].loss_increase.value < 0:
        pair.reverse()
    baseline, candidate = pair
    code, out, _ = compare("--baseline", baseline, "--candidate", candidate, "--max-loss-increase", 0)
    assert code == 1
    assert f"FAILED {candidate}: the loss is " in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--candidate", "int8"], "the bundle has no variant 'int8'; it has fused-float32, fused-int8, fused-int4"),
        (["--baseline", "fused-int2"], "the bundle has no variant 'fused-int2'; it has fused-float32, fused-int8, "),
        (["--max-loss-increase", "-1"], "the largest loss increase is -1; give 0 percent or more"),
        (["--max-loss-increase", "inf"], "the largest loss increase is inf; give 0 percent or more"),
        (["--min-agreement", "101"], "the least agreement is 101; give 0 to 100 percent"),
        (["--min-expert-agreement", "nan"], "the least expert agreement is nan; give 0 to 100 percent"),
        (["--min-sqnr", "-3"], "the least signal-to-noise ratio is -3; give 0 dB or more"),
        (["--batch-size", "0"], "argument --batch-size: 0 is too small; give 1 or more"),
        (["--generations", "-1"], "argument --generations: -1 is too small; give 0 or more"),
        (["--documents", "0"], "--documents is 0: give the number to use, 1 or more"),
        (["--seed", "-1"], "--seed is -1: give 0 or more"),
        (["--window", "512"], "568 tokens need 29 sentinels and the vocabulary has 20: use a shorter window"),
        (["--actors", "2"], "without --shards, --actors has no effect; name a folder with --shards, or leave it out"),
        (["--documents-per-shard", "8"], "without --shards, --documents-per-shard has no effect; name a folder with"),
        (["--shards", "counted", "--actors", "0"], "argument --actors: 0 is too small; give 1 or more"),
        (["--report", "no/where/report.html"], "there is no folder no/where; name a file in a folder that is there"),
        (["--report", "/proc/report.html"], "cannot write /proc/report.html ("),
    ],
)
def test_mistakes(compare, arguments, line):
    code, out, error = compare(*arguments)
    assert (code, out) == (2, "")
    assert error.startswith(f"pointsman-calib: {line}")
    assert error.count("\n") == 1


def test_shards_without_ray(compare, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, out, error = compare("--shards", tmp_path / "counted")
    assert (code, out) == (2, "")
    line = "ray is not installed; run pip install '.[ray]' in a checkout of Pointsman"
    assert error == f"pointsman-calib: {line}\n"
    assert not (tmp_path / "counted").exists()


def test_no_corpus(quantized_bundle, capsys):
    assert main(["compare", str(quantized_bundle)]) == 2
    assert "the following arguments are required: --corpus" in capsys.readouterr().err


def test_no_bundle(tmp_path, evaluation_file, capsys):
    assert main(["compare", str(tmp_path), "--corpus", str(evaluation_file)]) == 2
    assert "is not a bundle (no manifest.json); make one with `pointsman-export bundle`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "there is no file "),
        ("", "no documents; a corpus has one"),
        ("not json\n", ":1 is plain text, no JSON"),
        ('{"url": "x"}\n', ':1 has no "text"'),
        ('{"text": "a"}\n', "of 1 document none can be used: too short, "),
    ],
)
def test_a_corpus_that_is_none(compare, tmp_path, content, line):
    corpus = tmp_path / "c4.json"
    if content is not None:
        corpus.write_text(content)
    code, out, error = compare(corpus=corpus)
    assert (code, out) == (2, "")
    assert line in error
    assert error.count("\n") == 1


def test_the_text_that_was_calibrated_on(compare, calibration_file):
    code, _, error = compare(corpus=calibration_file)
    assert code == 2
    assert error == (
        "pointsman-calib: 6 of 6 evaluation documents were calibrated on; evaluate on other files, for example C4's "
        "validation split, and calibrate on its train split\n"
    )


def test_a_report_where_a_folder_is(compare, tmp_path):
    assert "is a folder; name a file" in compare("--report", tmp_path)[2]


def test_commands_where_something_is(compare, tmp_path):
    code, _, error = compare("--commands", tmp_path)
    assert code == 2
    assert "is there already; name a new one for the commands, or remove it" in error
