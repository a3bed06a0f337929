"""`pointsman infill --input`: a record for each line, in order, and resumed where it was left."""

import io
import json
import re
import sys
from types import SimpleNamespace

import pytest
from fake_backend import wandering
from small_bundles import fake_infiller

from pointsman.cli import main as cli
from pointsman.cli.lines import Progress, read_lines
from pointsman.errors import OptionsError
from pointsman.infill import Infiller

VOCAB = 128
TEXTS = [f"{'long ' * (number % 5)}<extra_id_0> walks" for number in range(40)]


@pytest.fixture
def infiller(manifest, tokenizer, monkeypatch) -> Infiller:
    """What every bundle is taken for."""
    made = fake_infiller(manifest, tokenizer, wandering(VOCAB))
    monkeypatch.setattr(Infiller, "load", lambda *arguments, **keywords: made)
    return made


@pytest.fixture
def run(infiller, tmp_path, capsys):
    """Fills a file of texts; gives exit code, records and what was said."""

    def use(content: str | bytes, *options: str):
        path = tmp_path / "texts"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        code = cli.main(["infill", "b", "--input", str(path), "--jsonl", *options])
        out, err = capsys.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err

    return use


def lines(texts=TEXTS) -> str:
    return "".join(f"{text}\n" for text in texts)


def test_records_are_those_of_each_text_alone_and_in_order(run, infiller):
    code, records, err = run(lines(), "--batch-size", "4")
    assert code == 0
    assert [record["line"] for record in records] == list(range(1, 41))
    for text, record in zip(TEXTS, records, strict=True):
        (fill,), (alone,) = record["fills"], infiller.infill(text)
        assert (fill["text"], fill["score"]) == (alone.text, pytest.approx(alone.score, abs=1e-5))
    assert re.fullmatch(r"pointsman: 40 of 40 lines, [\d,.]+ a second: done\n", err)


def test_samples_follow_from_the_number_of_the_line(run, infiller):
    options = ("--do-sample", "--seed", "3", "--batch-size")
    one, many = (run(lines(), *options, size)[1] for size in ("1", "7"))
    assert one == many
    expected = [fill.text for (fill,) in infiller.infill_batch(TEXTS, do_sample=True, seed=3)]
    assert [record["fills"][0]["text"] for record in many] == expected


def test_objects_with_a_text_and_an_id(run):
    objects = [
        {"text": TEXTS[0], "id": "a"},
        {"id": 7, "text": TEXTS[1]},
        {"text": TEXTS[2], "other": 1},
        {"text": TEXTS[3], "id": None},
    ]
    _, records, _ = run("".join(json.dumps(each) + "\n" for each in objects))
    assert [record.get("id", "none") for record in records] == ["a", 7, "none", None]


@pytest.mark.parametrize("one", [TEXTS[0], '{"text": "<extra_id_0>"}'])
def test_empty_lines_keep_their_place(run, one):
    _, records, _ = run(f"\n{one}\r\n\n{one}")
    assert [len(record["fills"]) for record in records] == [0, 1, 0, 1]


def test_a_first_line_that_only_looks_like_json_is_text():
    plain = [*read_lines(io.BytesIO(b'{"txt": 1}\n{<extra_id_0>}\n'))]
    assert [line.text for line in plain] == ['{"txt": 1}', "{<extra_id_0>}"]
    assert not any(line.error for line in plain)


BAD = [
    ("nothing missing\n", "has no blank"),
    ("<extra_id_0> \udcff\n", "UTF-8"),
    ("word " * 3000 + "<extra_id_0>\n", "tokens"),
]


@pytest.mark.parametrize(("line", "why"), BAD)
def test_a_bad_line_ends_the_run_after_those_before_it(run, line, why):
    code, records, err = run((lines(TEXTS[:3]) + line + lines(TEXTS[:1])).encode(errors="surrogateescape"))
    assert code == 2
    assert [record["line"] for record in records] == [1, 2, 3]
    assert err.splitlines()[-1].startswith("pointsman: line 4: ")
    assert why in err


@pytest.mark.parametrize(("line", "why"), BAD)
def test_a_bad_line_is_skipped_with_a_record_that_says_why(run, line, why):
    content = (lines(TEXTS[:3]) + line + lines(TEXTS[:1])).encode(errors="surrogateescape")
    code, records, _ = run(content, "--on-error", "skip")
    assert code == 0
    assert [sorted(record) for record in records] == [["fills", "line"]] * 3 + [["error", "line"], ["fills", "line"]]
    assert why in records[3]["error"]


@pytest.mark.parametrize("bad", ["[1]", '{"text": 5, "id": 9}', "{", "[" * 100_000, '{"text": "", "id": NaN}'])
def test_objects_that_are_none(run, bad):
    _, records, _ = run(f"{json.dumps({'text': TEXTS[0]})}\n{bad}\n", "--on-error", "skip")
    assert records[1]["error"] in {"the line is no JSON object, as the first one is", "the object has no text"}
    assert records[1].get("id") == (9 if "9" in bad else None)


def test_a_request_that_fails_while_it_is_filled_does_not_take_its_neighbours_along(run, infiller, monkeypatch):
    fill = infiller.fill_requests

    def failing(requests, batch_size):
        if any(request.number == 2 for request in requests):
            raise OptionsError("input 0: there is no possible token")
        return fill(requests, batch_size)

    monkeypatch.setattr(infiller, "fill_requests", failing)
    code, records, _ = run(lines(TEXTS[:5]), "--on-error", "skip")
    assert code == 0
    assert ["error" in record for record in records] == [False, False, True, False, False]


@pytest.mark.parametrize("cut", [0, 1, 17, 40])
def test_resuming_gives_what_one_run_gives(run, tmp_path, cut):
    output = tmp_path / "records"
    run(lines(), "--output", str(output))
    whole = output.read_bytes()
    kept = b"".join(whole.splitlines(keepends=True)[:cut])
    output.write_bytes(kept + (b'{"line": 18, "fil' if cut == 17 else b""))
    code, _, err = run(lines(), "--output", str(output), "--resume")
    assert code == 0
    assert output.read_bytes() == whole
    assert err.startswith("pointsman: 40 of 40 lines")


def test_an_output_is_not_overwritten(run, tmp_path):
    output = tmp_path / "records"
    output.write_text("mine\n")
    code, _, err = run(lines(), "--output", str(output))
    assert (code, err.count("\n")) == (2, 1)
    assert "exists; go on with it by --resume" in err
    code, _, err = run(lines(), "--output", str(output), "--resume")
    assert "does not hold the records of this job; choose another --output" in err
    assert output.read_text() == "mine\n"


@pytest.mark.parametrize("content", ["mine", '{"line": 2', '{"text": "mine"}', '{"line": 1, "fills": []}\nmine'])
def test_a_file_of_someone_elses_is_left_as_it_is(run, tmp_path, content):
    output = tmp_path / "records"
    output.write_text(content)
    code, _, err = run(lines(), "--output", str(output), "--resume")
    assert code == 2
    assert "does not hold the records of this job" in err
    assert output.read_text() == content


@pytest.mark.parametrize("change", ["options", "texts", "ids", "fewer lines"])
def test_the_output_of_another_job_is_not_resumed(run, tmp_path, change):
    output = tmp_path / "records"
    objects = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]
    run(lines(map(json.dumps, objects)), "--output", str(output), "--batch-size", "1")
    kept = b"".join(output.read_bytes().splitlines(keepends=True)[:21])
    output.write_bytes(kept)
    options = ["--output", str(output), "--resume", "--batch-size", "1"]
    options += ["--max-new-tokens", "3"] if change == "options" else []
    other = {
        "options": objects,
        "texts": [each | {"text": "another <extra_id_0>"} for each in objects],
        "ids": [each | {"id": "b"} for each in objects],
        "fewer lines": objects[:20],
    }[change]
    code, _, err = run(
        lines(map(json.dumps, other)), "--output", str(output), "--resume", "--batch-size", "1", *options
    )
    assert code == 2
    assert ("and the input fewer lines" if change == "fewer lines" else "is not of this input") in err
    assert output.read_bytes() == kept


def test_the_input_is_no_output(run, tmp_path):
    code, _, err = run(lines(), "--output", str(tmp_path / "texts"), "--resume")
    assert (code, err) == (2, "pointsman: --output is the input; choose another\n")
    assert (tmp_path / "texts").read_text() == lines()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--output", "nowhere/records"], "cannot write nowhere/records (No such file or directory)"),
        (["--output", "records", "--max-new-tokens", "0"], "--max-new-tokens is 0"),
    ],
)
def test_a_run_that_cannot_begin_leaves_no_output(run, tmp_path, monkeypatch, options, sentence):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(lines(), *options)
    assert (code, err.count("\n")) == (2, 1)
    assert sentence in err
    assert not (tmp_path / "records").exists()


def test_a_byte_order_mark(run):
    _, records, _ = run("\ufeff" + json.dumps({"id": 1, "text": TEXTS[0]}) + "\n")
    assert records[0]["id"] == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--jsonl"], "lines of a file are filled with --input FILE --jsonl"),
        (["--input", "texts"], "lines of a file are filled with --input FILE --jsonl"),
        (["another text", "--input", "texts", "--jsonl"], "and without other texts or --json"),
        (["a <extra_id_0>", "--resume"], "are for the lines of a file"),
        (["--input", "texts", "--jsonl", "--resume"], "--resume goes on with a file; say which with --output"),
        (["--input", "nowhere", "--jsonl"], "nowhere cannot be read (No such file or directory)"),
    ],
)
def test_mistakes(infiller, capsys, monkeypatch, tmp_path, options, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").write_text(lines())
    assert cli.main(["infill", "b", *options]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


def test_stdin_and_an_interrupt(infiller, monkeypatch, capsys, tmp_path):
    class Interrupted(io.BytesIO):
        def __next__(self):
            line = super().__next__()
            if b"stop" in line:
                raise KeyboardInterrupt
            return line

    content = lines(TEXTS[:20]) + "stop\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Interrupted(content.encode())))
    output = tmp_path / "records"
    code = cli.main(["infill", "b", "--input", "-", "--jsonl", "--batch-size", "1", "--output", str(output)])
    assert code == 130
    assert capsys.readouterr().err == "pointsman: interrupted after 16 lines; go on with --resume\n"
    assert len(output.read_text().splitlines()) == 16


def test_records_come_as_soon_as_their_turn_has_come(infiller, monkeypatch, capsys):
    """The first of a group of lines is not kept until the last is filled."""
    fill, printed = infiller.model.generate_unchecked, []

    def slow(*arguments, **keywords):
        printed.append(capsys.readouterr().out.count("\n"))
        return fill(*arguments, **keywords)

    monkeypatch.setattr(infiller.model, "generate_unchecked", slow)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines([TEXTS[0]] * 6).encode())))
    assert cli.main(["infill", "b", "--input", "-", "--jsonl", "--batch-size", "2"]) == 0
    assert printed == [0, 2, 2]


def test_progress_on_a_terminal(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    progress = Progress(total=1200, done=200, terminal=terminal, began=0.0)
    monkeypatch.setattr("time.perf_counter", lambda: 10.0)
    for _ in range(500):
        progress.count()
    assert progress.sentence + progress.left == "700 of 1,200 lines, 50.0 a second, 10 s left"
    assert terminal.getvalue().startswith("\r201 of 1,200 lines, ")
    progress.close()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_score(infiller, capsys):
    text = "The <extra_id_0> walks in <extra_id_1> park."
    assert cli.main(["score", "b", text, "--spans", "dog", "the", "--spans", "cat", "a"]) == 0
    expected = infiller.score(text, [["dog", "the"], ["cat", "a"]])
    out = capsys.readouterr().out
    assert out == "".join(
        f"{score:10.3f}  {spans}\n" for score, spans in zip(expected, ["dog | the", "cat | a"], strict=True)
    )
    assert cli.main(["score", "b", text, "--spans", "dog", "the", "--json"]) == 0
    (candidate,) = json.loads(capsys.readouterr().out)["candidates"]
    assert candidate == {"spans": ["dog", "the"], "score": expected[0]}
