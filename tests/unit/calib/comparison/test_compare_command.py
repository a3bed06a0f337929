"""`pointsman-calib compare`: what it prints and writes, its exit codes, and its lines for what a person gets wrong."""

import json

import pytest

from pointsman_calib.cli.main import main


@pytest.fixture
def compare(quantized_bundle, evaluation_file, capsys):
    """Run the command on the small bundle and give its exit code, stdout and stderr."""

    def run(*arguments, corpus=evaluation_file, quick=True):
        options = ["--window", "256", *(["--generations", "0", "--documents", "3"] if quick else [])]
        code = main(["compare", str(quantized_bundle), "--corpus", str(corpus), *options, *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def line(error):
    """The one line of a mistake, without the progress bar."""
    return error.splitlines()[-1]


def test_tables_for_people(compare):
    code, out, error = compare(quick=False)
    assert code == 0
    assert out.startswith("10 documents (sha256 ")
    costs, *_ = out.split("\n\n")[1:]
    assert [row.split()[0] for row in costs.splitlines()[1:]] == ["fused-float32", "fused-int8", "fused-int4"]
    assert "pointsman-calib" not in error


def test_one_json_document_and_the_tables_beside_it(compare):
    code, out, error = compare("--json", "--candidate", "fused-int8")
    assert code == 0
    document = json.loads(out)
    assert [candidate["variant"]["name"] for candidate in document["candidates"]] == ["fused-int8"]
    assert document["evaluation"]["documents"] == 3
    assert "increase (95 % interval)" in error


def test_the_report_is_written(compare, tmp_path):
    report = tmp_path / "report.html"
    code, _, error = compare("--report", report)
    assert code == 0
    assert report.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert line(error) == f"pointsman-calib: wrote {report}"


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (["--max-loss-increase", 1000, "--min-agreement", 1, "--min-expert-agreement", 1, "--min-sqnr", 1], 0),
        (["--min-agreement", 100], 1),
        (["--min-expert-agreement", 100], 1),
        (["--min-sqnr", 90], 1),
    ],
)
def test_limits_decide_the_exit_code(compare, limits, code):
    exit_code, out, _ = compare("--candidate", "fused-int4", "--documents", 10, *limits)
    assert exit_code == code
    assert ("FAILED fused-int4: " in out) == bool(code)


def test_a_loss_above_the_limit(compare, comparison):
    """Of a model that learned nothing the loss falls as easily as it rises: what rises is taken for the candidate."""
    pair = ["fused-float32", "fused-int4"]
    if comparison.candidates[1].loss_increase.value < 0:
        pair.reverse()
    baseline, candidate = pair
    code, out, _ = compare(
        "--baseline", baseline, "--candidate", candidate, "--documents", 10, "--max-loss-increase", 0
    )
    assert code == 1
    assert f"FAILED {candidate}: the loss is " in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--candidate", "int8"], "the bundle has no variant 'int8'; it has fused-float32, fused-int8, fused-int4"),
        (["--baseline", "fused-int2"], "the bundle has no variant 'fused-int2'; it has fused-float32, fused-int8, "),
        (["--max-loss-increase", "-1"], "--max-loss-increase is -1; give a percentage from 0"),
        (["--max-loss-increase", "inf"], "--max-loss-increase is inf; give a percentage from 0"),
        (["--min-agreement", "101"], "--min-agreement is 101; give a percentage from 0 to 100"),
        (["--min-expert-agreement", "nan"], "--min-expert-agreement is nan; give a percentage from 0 to 100"),
        (["--min-sqnr", "-3"], "--min-sqnr is -3; give decibels from 0"),
        (["--batch-size", "0"], "--batch-size is 0; give 1 or more"),
        (["--generations", "-1"], "--generations is -1; give 0 or more"),
        (["--documents", "0"], "limit is 0: give the number of documents to use, 1 or more"),
        (["--seed", "-1"], "seed is -1: give 0 or more"),
        (["--window", "512"], "568 tokens need 29 sentinels and the vocabulary has 20: use a shorter window"),
        (["--report", "no/where/report.html"], "there is no folder no/where; name a file in a folder that is there"),
    ],
)
def test_mistakes(compare, arguments, told):
    code, out, error = compare(*arguments)
    assert (code, out) == (2, "")
    assert error.startswith(f"pointsman-calib: {told}")
    assert error.count("\n") == 1


def test_no_corpus(quantized_bundle, capsys):
    assert main(["compare", str(quantized_bundle)]) == 2
    assert "the following arguments are required: --corpus" in capsys.readouterr().err


def test_no_bundle(tmp_path, evaluation_file, capsys):
    assert main(["compare", str(tmp_path), "--corpus", str(evaluation_file)]) == 2
    assert "is not a bundle (no manifest.json); make one with `pointsman-export bundle`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "there is no file "),
        ("", "no documents; a corpus has one"),
        ("not json\n", ":1 is not JSON"),
        ('{"url": "x"}\n', ':1 is no C4 record, it has no "text"'),
        ('{"text": "a"}\n', "none of 1 documents can be used"),
    ],
)
def test_a_corpus_that_is_none(compare, tmp_path, content, told):
    corpus = tmp_path / "c4.json"
    if content is not None:
        corpus.write_text(content)
    code, out, error = compare(corpus=corpus)
    assert (code, out) == (2, "")
    assert told in error
    assert error.count("\n") == 1


def test_the_text_that_was_calibrated_on(compare, calibration_file):
    code, _, error = compare(corpus=calibration_file)
    assert code == 2
    assert error == (
        "pointsman-calib: 3 of 3 evaluation documents were calibrated on; evaluate on other files, for example C4's "
        "validation split, and calibrate on its train split\n"
    )


def test_a_report_where_a_folder_is(compare, tmp_path):
    assert "is a folder; name a file" in compare("--report", tmp_path)[2]


def test_commands_where_something_is(compare, tmp_path):
    code, _, error = compare("--commands", tmp_path)
    assert code == 2
    assert "is there already; name a new folder for --commands, or remove it" in error
