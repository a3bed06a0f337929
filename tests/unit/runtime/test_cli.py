"""The command line over an engine that computes nothing: what is printed, where, and with which exit code."""

import io
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_backend import saying, wandering
from small_bundles import fake_infiller

from pointsman import DecodingOptions
from pointsman.cli import main as cli
from pointsman.cli.infill import decoding_of
from pointsman.errors import BundleError, DeviceError, OptionsError, ParityError
from pointsman.infill import Infiller

TEXT = "The <extra_id_0> walks in <extra_id_1> park."
VOCAB = 128


@pytest.fixture
def loaded(manifest, tokenizer, monkeypatch):
    """Loads an infiller with the given logits, whatever the bundle, and remembers what was asked for."""
    asked = []

    def use(logits):
        infiller = fake_infiller(manifest, tokenizer, logits)

        def load(*arguments, **keywords):
            asked.append((arguments, keywords))
            return infiller

        monkeypatch.setattr(Infiller, "load", load)
        return infiller

    use.asked = asked
    return use


@pytest.fixture
def script(tokenizer):
    span = tokenizer.encode_span
    sentinel = tokenizer.sentinel_id
    return [sentinel(0), *span(" cute dog"), sentinel(1), *span(" the"), sentinel(2)]


def stdin(monkeypatch, content: bytes):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def test_infill_for_people(loaded, script, capsys):
    loaded(saying(VOCAB, script))
    assert cli.main(["infill", "bundle", TEXT]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "The cute dog walks in the park."
    assert [line.split()[0] for line in lines[1:]] == ["score", "<extra_id_0>", "<extra_id_1>"]
    assert [line.split(maxsplit=2)[2] for line in lines[2:]] == ['"cute dog"', '"the"']
    assert all(float(line.split()[1]) < 0 for line in lines[1:])
    assert err.startswith("pointsman: 1 text filled in ")
    assert err.endswith(" with fused-float32 on cpu\n")


def test_infill_marks_what_is_not_whole(loaded, script, capsys):
    loaded(saying(VOCAB, script[:1]))
    assert cli.main(["infill", "bundle", TEXT, "--no-constrain"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith('""  (missing)')


def test_infill_as_json_is_one_document_and_equals_the_library(loaded, capsys):
    infiller = loaded(wandering(VOCAB))
    texts = [TEXT, "<extra_id_3>\n"]
    code = cli.main(
        ["infill", "b", *texts, "--json", "--num-beams", "3", "--num-return-sequences", "2", "--batch-size", "1"]
    )
    assert code == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["variant"], document["device"]) == ("fused-float32", "cpu")
    assert [result["text"] for result in document["results"]] == texts
    for text, result in zip(texts, document["results"], strict=True):
        fills = infiller.infill(text, num_beams=3, num_return_sequences=2)
        assert [(fill["text"], fill["score"]) for fill in result["fills"]] == [(f.text, f.score) for f in fills]
        for shown, fill in zip(result["fills"], fills, strict=True):
            assert [set(span) for span in shown["spans"]] == [{"index", "text", "score", "token_ids", "state"}] * len(
                fill.spans
            )
            assert [span["text"] for span in shown["spans"]] == [span.text for span in fill.spans]


def test_where_to_run_is_passed_on(loaded):
    loaded(wandering(VOCAB))
    assert (
        cli.main(
            [
                "infill",
                "some/bundle",
                TEXT,
                "--device",
                "cpu",
                "--variant",
                "v",
                "--engine",
                "onnxruntime",
                "--threads",
                "3",
                "--max-memory",
                "1.5G",
            ]
        )
        == 0
    )
    keywords = {"engine": "onnxruntime", "threads": 3, "max_memory": 1_500_000_000}
    assert loaded.asked == [(("some/bundle", "cpu", "v"), keywords)]


def test_every_decoding_option_has_a_flag():
    values = {
        "max_new_tokens": ("7", 7),
        "min_new_tokens": ("2", 2),
        "num_beams": ("1", 1),
        "num_return_sequences": ("2", 2),
        "length_penalty": ("0.5", 0.5),
        "early_stopping": ("never", "never"),
        "do_sample": (None, True),
        "temperature": ("0.7", 0.7),
        "top_k": ("5", 5),
        "top_p": ("0.9", 0.9),
        "seed": ("3", 3),
        "repetition_penalty": ("1.5", 1.5),
        "no_repeat_ngram_size": ("2", 2),
        "constrain": (None, True),
    }
    assert list(values) == [field.name for field in fields(DecodingOptions)]
    line = ["infill", "b", TEXT]
    for name, (given, _) in values.items():
        line += ["--" + name.replace("_", "-"), *([given] if given else [])]
    assert decoding_of(cli._parser().parse_args(line)) == {name: value for name, (_, value) in values.items()}
    assert decoding_of(cli._parser().parse_args(["infill", "b", TEXT])) == {}


def test_many_blanks_leave_room_for_more_tokens_than_the_librarys_default(loaded):
    loaded(wandering(VOCAB))
    text = " ".join(f"<extra_id_{n}>" for n in range(6))
    assert cli.main(["infill", "b", text, "--min-new-tokens", "40"]) == 0


def test_a_dash_reads_lines(loaded, script, monkeypatch, capsys):
    loaded(saying(VOCAB, script))
    stdin(monkeypatch, b"<extra_id_0> and <extra_id_1>\r\n\n\xc3\xa9 <extra_id_0> and <extra_id_1>")
    assert cli.main(["infill", "b", TEXT, "-", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [[fill["text"] for fill in result["fills"]] for result in results] == [
        ["The cute dog walks in the park."],
        ["cute dog and the"],
        [],
        ["é cute dog and the"],
    ]


@pytest.mark.parametrize(
    "line", [["--num-beams", "2", TEXT, TEXT], [TEXT, "--num-beams", "2", TEXT], [TEXT, TEXT, "--num-beams", "2"]]
)
def test_texts_may_stand_before_and_behind_options(loaded, script, capsys, line):
    loaded(saying(VOCAB, script))
    assert cli.main(["infill", "b", "--json", *line]) == 0
    assert [result["text"] for result in json.loads(capsys.readouterr().out)["results"]] == [TEXT, TEXT]


def test_nothing_on_stdin_is_nothing_to_do(loaded, monkeypatch, capsys):
    loaded(wandering(VOCAB))
    stdin(monkeypatch, b"")
    assert cli.main(["infill", "b", "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"] == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([], "the following arguments are required: COMMAND; see pointsman --help"),
        (["fill"], "'fill' is no command (did you mean infill?); see pointsman --help"),
        (["run"], "'run' is no command (use infill, score, fill-files, serve or inspect); see pointsman --help"),
        (["--verison"], "--verison is no option (did you mean --version?); see pointsman --help"),
        (["infill"], "the following arguments are required: BUNDLE, TEXT; see pointsman infill --help"),
        (
            ["score", "b", "--spans", "new", "the", TEXT],
            "the following arguments are required: TEXT (give TEXT before --spans, which takes all that stands behind",
        ),
        (["score", "--spans", "new"], "the following arguments are required: BUNDLE, TEXT (give BUNDLE, TEXT before"),
        (["score", "b", TEXT], "the following arguments are required: --spans; see pointsman score --help"),
        (["infill", "b"], "there is no text; give one, or a file of them with --input; see pointsman infill --help"),
        (
            ["infill", "--num-beam", "4"],
            "--num-beam is no option (did you mean --num-beams?); see pointsman infill --help",
        ),
        (
            ["infill", "b", TEXT, "--top_k=4"],
            "--top_k is no option (did you mean --top-k?); see pointsman infill --help",
        ),
        (
            ["fill-files", "b", "f.parquet", "-o", "o", "--num-return-sequences", "3"],
            (
                "--num-return-sequences is no option (the best fill alone is written; leave it out); see pointsman "
                "fill-files --help"
            ),
        ),
        (["infill", "b", TEXT, "--zzz"], "--zzz is no option; see pointsman infill --help"),
        (["infill", "b", TEXT, "-b", "4"], "unrecognized arguments: -b 4; see pointsman infill --help"),
        (["inspect", "b", "c"], "unrecognized arguments: c; see pointsman inspect --help"),
        (
            ["score", "b", TEXT, "--span", "a"],
            "--span is no option (did you mean --spans?); see pointsman score --help",
        ),
        (["infill", "b", TEXT, "--num-beams", "four"], "argument --num-beams: invalid int value: 'four'"),
        (
            ["infill", "b", TEXT, "--threads", "0"],
            "argument --threads: 0 is too small: use a whole number of at least 1",
        ),
        *(
            (
                ["infill", "b", TEXT, "--max-memory", size],
                f"argument --max-memory: {size!r} is no size: use bytes, or a number with K, M, G or T, such as 6G",
            )
            for size in ("much", "0", "6X", "1e9")
        ),
        (
            ["infill", "b", TEXT, "--batch-size", "x"],
            "argument --batch-size: 'x' is no number: use a whole number of at least 1; see pointsman infill --help",
        ),
        (["infill", "b", TEXT, "--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["infill", "nowhere", TEXT, "--num-beams", "0"], "--num-beams is 0; use a whole number of at least 1"),
        (["infill", "b", TEXT, "--seed", "-1", "--do-sample"], "--seed is -1; use a whole number of at least 0"),
        (
            ["infill", "b", TEXT, "--num-return-sequences", "3"],
            "--num-return-sequences 3 is above --num-beams 1; raise --num-beams, or sample with --do-sample",
        ),
        (
            ["infill", "b", TEXT, "--num-beams", "3", "--do-sample"],
            "--do-sample cannot be combined with --num-beams 3; drop one of the two",
        ),
        (
            ["infill", "nowhere", TEXT, "--top-k", "4"],
            "--top-k without --do-sample would change nothing; add --do-sample or leave out",
        ),
        (
            ["infill", "nowhere", TEXT],
            "nowhere is not a bundle (no manifest.json); make one with `pointsman-export bundle`",
        ),
        (["inspect", "nowhere"], "nowhere is not a bundle"),
    ],
)
def test_mistakes_cost_one_line_and_exit_code_2(line, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(line) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"pointsman: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", ["4000", "99999999999"])
def test_more_threads_than_make_sense(small_bundle, capsys, number):
    assert cli.main(["infill", str(small_bundle), TEXT, "--device", "cpu", "--threads", number]) == 2
    assert capsys.readouterr().err == f"pointsman: --threads is {number}; use a whole number from 1 to 1024\n"


def test_devices_and_room_are_named_as_flags(small_bundle, loaded, capsys):
    assert cli.main(["infill", str(small_bundle), TEXT, "--engine", "tensorrt", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error == "pointsman: tensorrt does not run on the CPU; use --device cuda or --engine onnxruntime\n"
    loaded(wandering(VOCAB))
    assert cli.main(["infill", str(small_bundle), TEXT, "--device", "cpu", "--max-new-tokens", "3"]) == 2
    assert capsys.readouterr().err.startswith("pointsman: --max-new-tokens 3 is too few for the 2 blanks")


@pytest.mark.parametrize("line", [["infill", "b", TEXT], ["score", "b", TEXT, "--spans", "a"]])
@pytest.mark.parametrize("kind", [BundleError, DeviceError, OptionsError])
def test_the_memory_that_is_allowed_is_named_as_a_flag(monkeypatch, capsys, line, kind):
    def refuse(*_arguments, **_keywords):
        raise kind("of max_memory/max_memory: max_memory is 1 MB, and 2 MB must stay; leave max_memory out")

    monkeypatch.setattr(Infiller, "load", refuse)
    assert cli.main([*line, "--max-memory", "1M"]) == 2
    assert capsys.readouterr().err == (
        "pointsman: of max_memory/max_memory: --max-memory is 1 MB, and 2 MB must stay; leave --max-memory out\n"
    )


def test_a_text_may_begin_like_an_option(loaded, script, capsys):
    loaded(saying(VOCAB, script))
    assert cli.main(["infill", "b", f"--so {TEXT}"]) == 0
    assert capsys.readouterr().out.startswith("--so The cute dog walks")


def test_more_beams_than_make_sense(loaded, capsys):
    loaded(wandering(VOCAB))
    assert cli.main(["infill", "b", TEXT, "--num-beams", "99999999"]) == 2
    assert capsys.readouterr().err == (
        "pointsman: 99999999 beams or samples at a time are too many (99999999 of each input); ask for 4096 at most\n"
    )


def test_stdin_that_is_closed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert cli.main(["infill", "b", "-"]) == 2
    assert capsys.readouterr().err == (
        "pointsman: stdin is closed; send the texts to it as lines, or give them in place of -\n"
    )


def run(arguments, **keywords):
    """The command in a process of its own."""
    command = [sys.executable, "-c", "import sys; from pointsman.cli.main import main; sys.exit(main())", *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, check=False, timeout=60, **keywords)


def test_stdout_that_is_full(small_bundle):
    with Path("/dev/full").open("w") as full:
        done = run(["inspect", small_bundle], stdout=full)
    sentence = b"cannot write the results (No space left on device); free some space or send them elsewhere"
    assert (done.returncode, done.stderr) == (2, b"pointsman: " + sentence + b"\n")


def test_stdout_that_is_closed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["inspect", "b"]) == 2
    assert capsys.readouterr().err == "pointsman: stdout is closed; send the results to a file or a pipe\n"


def test_results_are_utf_8_whatever_the_locale(small_bundle):
    done = run(["inspect", small_bundle], stdout=subprocess.PIPE, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert "tiny (sha256 000000000000…)" in done.stdout.decode("utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("The dog.", "the text has no blank: write <extra_id_0>"),
        ("<extra_id_0> \udcff", "the text is not valid Unicode"),
        ("<extra_id_99>", "<extra_id_99> is beyond the vocabulary: number blanks from 0 to 19"),
    ],
)
def test_bad_texts(loaded, capsys, text, message):
    loaded(wandering(VOCAB))
    assert cli.main(["infill", "b", text]) == 2
    out, err = capsys.readouterr()
    assert (out, err.startswith(f"pointsman: {message}"), err.count("\n")) == ("", True, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([TEXT + " man" * 200], "the text has "),
        ([TEXT, "", TEXT + " man" * 200], "text 3 has "),  # an empty one is counted, though it is not filled
        ([TEXT, "no blank"], "text 2: the text has no blank"),
        ([TEXT, TEXT, "--max-new-tokens", "3"], "--max-new-tokens 3 is too few for the 2 blanks of text 1; use "),
        ([TEXT, "--max-new-tokens", "3"], "--max-new-tokens 3 is too few for the 2 blanks of the text; use "),
    ],
)
def test_texts_are_counted_from_1(loaded, capsys, line, message):
    loaded(wandering(VOCAB))
    assert cli.main(["infill", "b", *line]) == 2
    assert capsys.readouterr().err.startswith(f"pointsman: {message}")


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([["dog"]], "the candidate: 1 span for 2 blanks"),
        ([["dog", "the"], ["dog"]], "candidate 2: 1 span for 2 blanks"),
        ([["dog", "the"], ["dog " * 200, "the"]], "candidate 2 has "),
    ],
)
def test_candidates_are_counted_from_1(loaded, capsys, spans, message):
    loaded(wandering(VOCAB))
    line = [argument for one in spans for argument in ("--spans", *one)]
    assert cli.main(["score", "b", TEXT, *line]) == 2
    assert capsys.readouterr().err.startswith(f"pointsman: {message}")


def test_bytes_on_stdin_that_are_no_text(loaded, monkeypatch, capsys):
    loaded(wandering(VOCAB))
    stdin(monkeypatch, b"caf\xe9 <extra_id_0>\n")
    assert cli.main(["infill", "b", "-"]) == 2
    assert "decode the input as UTF-8" in capsys.readouterr().err


def test_other_exit_codes(loaded, monkeypatch, capsys):
    def raising(error):
        def load(*arguments, **keywords):
            raise error

        return load

    for error, code, said in ((KeyboardInterrupt(), 130, "interrupted"), (ParityError("off"), 1, "off")):
        monkeypatch.setattr(Infiller, "load", raising(error))
        assert cli.main(["infill", "b", TEXT]) == code
        assert capsys.readouterr().err == f"pointsman: {said}\n"
    monkeypatch.setattr(Infiller, "load", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["infill", "b", TEXT])


def test_score(loaded, capsys):
    infiller = loaded(wandering(VOCAB))
    assert cli.main(["score", "b", TEXT, "--spans", "dog", "the", "--spans", "cat", "a"]) == 0
    expected = infiller.score(TEXT, [["dog", "the"], ["cat", "a"]])
    out = capsys.readouterr().out
    assert out == "".join(
        f"{score:10.3f}  {spans}\n" for score, spans in zip(expected, ["dog | the", "cat | a"], strict=True)
    )
    assert cli.main(["score", "b", TEXT, "--spans", "dog", "the", "--json"]) == 0
    (candidate,) = json.loads(capsys.readouterr().out)["candidates"]
    assert candidate == {"spans": ["dog", "the"], "score": expected[0]}


@pytest.mark.parametrize("line", [["--help"], ["infill", "--help"], ["inspect", "--help"], ["--version"]])
def test_help_goes_to_stdout(line, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(line)
    assert caught.value.code == 0
    assert "pointsman" in capsys.readouterr().out
