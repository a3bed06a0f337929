"""`pointsman infill --input`: a record for each line, in order."""

import bz2
import gzip
import io
import json
import lzma
import re
import sys
from types import SimpleNamespace

import pytest
from batch_texts import TEXTS, lines

from pointsman.cli import main as cli
from pointsman.errors import OptionsError


def test_records_are_those_of_each_text_alone_and_in_order(run, infiller):
    code, records, err = run(lines(), "--batch-size", "4")
    assert code == 0
    assert [record["line"] for record in records] == list(range(1, 41))
    for text, record in zip(TEXTS, records, strict=True):
        (fill,), (alone,) = record["fills"], infiller.infill(text)
        assert (fill["text"], fill["score"]) == (alone.text, pytest.approx(alone.score, abs=1e-5))
    assert re.fullmatch(r"pointsman: 40 of 40 lines(, [\d,.]+ a second)?: done", err.splitlines()[-1])


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


@pytest.mark.parametrize("blank", ["", " ", "\t \r", "\ufeff"])
def test_lines_of_white_space_are_empty(run, blank):
    _, records, _ = run(f"{blank}\n{TEXTS[0]}\n{blank.strip(chr(0xFEFF))}\n", "--plain")
    assert [len(record["fills"]) for record in records] == [0, 1, 0]


def test_an_object_whose_text_is_white_space(run):
    _, records, _ = run('{"text": " ", "id": 1}\n')
    assert records == [{"line": 1, "id": 1, "fills": []}]


@pytest.mark.parametrize("first", ['{"txt": 1}', "{<extra_id_0>}", '{"text": "cut', ' {"text": 5}'])
def test_the_first_line_begins_as_an_object_and_is_none(run, first):
    """It is not taken as a text in silence, and with it all the others."""
    code, records, err = run(f"\n{first}\n{TEXTS[0]}\n")
    assert (code, [record["line"] for record in records]) == (2, [1])
    assert err.startswith("pointsman: line 2: ")
    code, records, _ = run(f'{first}\n{{"text": "{TEXTS[0]}"}}\n', "--on-error", "skip")
    assert (code, [sorted(record) for record in records]) == (0, [["error", "line"], ["fills", "line"]])


IN_DOUBT = (
    "of the input holds a JSON object, and lines are taken as plain texts, since the first that is not empty does "
)


@pytest.mark.parametrize("mode", ["fail", "skip"])
@pytest.mark.parametrize(
    ("content", "number"),
    [
        ('oops\n{"text": "a <extra_id_0> b"}\n', 2),
        ('a <extra_id_0>\n\n {"id": "<extra_id_0>"}\n', 3),
        ('[\n{"text": "a <extra_id_0> b"},\n{"text": "c <extra_id_0>"}\n]\n', 2),
        ('[{"text": "a <extra_id_0> b"}]\n', 1),
    ],
    ids=["objects behind a bad line", "another key", "a list over lines", "a list in a line"],
)
def test_json_is_not_filled_as_a_text_in_silence(run, content, number, mode):
    """Nor are such lines skipped, since what all are is in doubt; a flag says it."""
    code, records, err = run(content, "--on-error", mode)
    assert (code, records) == (2, [])
    assert err.startswith(f"pointsman: line {number} {IN_DOUBT}not begin with {{; add --objects, and mend or skip ")
    assert err.count("\n") == 1
    assert run(content, "--plain", "--on-error", "skip")[0] == 0
    code, records, _ = run(content, "--objects", "--on-error", "skip")
    assert (code, len(records), records[0]["line"]) == (0, content.count("\n"), 1)
    assert "error" in records[0]


def test_texts_that_are_almost_json(run):
    texts = ["[sic] <extra_id_0>", "{<extra_id_0>}", '["<extra_id_0>", 1]', "<extra_id_0>,"]
    code, records, _ = run(lines(texts))
    assert (code, [len(record["fills"]) for record in records]) == (0, [1] * 4)


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (TEXTS[0], "as plain texts; --objects takes them as JSON objects"),
        (json.dumps({"text": TEXTS[0]}), "as JSON objects; --plain takes them as plain texts"),
    ],
)
def test_how_lines_are_taken_is_said_unless_it_was_given(infiller, capsys, tmp_path, first, said):
    path = tmp_path / "texts"
    path.write_text(f"\n{first}\n")
    command = ["infill", "b", "--input", str(path), "--jsonl"]
    assert cli.main(command) == 0
    assert capsys.readouterr().err.startswith(f"pointsman: lines are taken {said}\n")
    assert cli.main([*command, "--objects" if "JSON objects;" in said else "--plain"]) == 0
    assert capsys.readouterr().err.startswith("pointsman: 2 of 2 lines")
    assert cli.main([*command, "--objects", "--plain"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_only_the_first_line_is_a_reason_to_take_all_as_texts(run):
    """Where others are objects, that would fill their JSON."""
    advice = "; if lines are plain texts, add --plain"
    texts = ["{<extra_id_0>", '{"text": "<extra_id_0>"}', "{<extra_id_0>"]
    _, records, _ = run(lines(texts), "--on-error", "skip")
    assert [record.get("error", "").endswith(advice) for record in records] == [True, False, False]
    _, records, _ = run(lines(texts[1:]), "--on-error", "skip")
    assert advice not in records[1]["error"]


def test_plain_texts_may_begin_with_a_brace(run):
    texts = ["{<extra_id_0>}", '{"text": "<extra_id_0>"}']
    _, records, _ = run(lines(texts), "--plain")
    assert [record["fills"][0]["text"][:1] for record in records] == ["{", "{"]
    assert records[1]["fills"][0]["text"].endswith('"}')


def test_a_gzipped_file(run):
    plain = run(lines(TEXTS[:5]))[1]
    code, records, err = run(gzip.compress(lines(TEXTS[:5]).encode()))
    assert (code, records) == (0, plain)
    assert err.startswith("pointsman: 5 of 5 lines")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            gzip.compress(lines([f"{number} {TEXTS[0]}" for number in range(400)]).encode(), mtime=0)[:-100],
            "is cut off after",
        ),
        (gzip.compress(lines().encode(), mtime=0)[:-8] + bytes(8), "cannot be read after line 40 (CRC check failed"),
        (b"\x89PNG\0\0<extra_id_0>\n", "line 1 of the input: it has zero bytes, so it is no UTF-8 text"),
        (lines().encode("utf-16"), "line 1 of the input: it is UTF-16; save it as UTF-8"),
        (lines().encode("utf-16-le"), "line 1 of the input: it has zero bytes, so it is no UTF-8 text"),
        (lzma.compress(lines().encode()), "it is packed by xz; unpack it, as by `xzcat FILE |`, which gives its lines"),
        (
            bz2.compress(lines().encode()),
            "it is packed by bzip2; unpack it, as by `bzcat FILE |`, which gives its lines",
        ),
        (b"\x28\xb5\x2f\xfd\x04\x58\n", "it is packed by zstd; unpack it, as by `zstdcat FILE |`, which gives"),
        (b"PK\x03\x04\x14\n", "it is packed by zip; unpack it, as by `unzip -p FILE |`, which gives its lines"),
        (b"PAR1\x15\x04\x15\n\xe9\n", "it is Parquet; `pointsman fill-files` fills that, if its name ends in .parquet"),
        (gzip.compress(b"PAR1\x15\x04\x15\n\xe9\n"), "it is Parquet; `pointsman fill-files` fills that"),
        (
            b"Obj\x01\x04\x16avro\xfe\n",
            "it is Avro; convert it to Parquet for `pointsman fill-files`, or to JSON lines",
        ),
        (b"\x93NUMPY\x01\n<extra_id_0>\n", "line 1 of the input: it has control characters and is not UTF-8, so it is"),
    ],
)
def test_files_that_are_no_whole_texts(run, content, sentence):
    code, _, err = run(content, "--on-error", "skip")
    assert (code, err.count("\n")) == (2, 1)
    assert sentence in err


@pytest.mark.parametrize("first", [b"ORC <extra_id_0>", b"Obj\x01<extra_id_0>", b"\x1b[1m\x02 <extra_id_0>"])
def test_texts_that_begin_as_tables_do(run, first):
    code, records, _ = run(first + b"\n")
    assert (code, len(records)) == (0, 1)


@pytest.mark.parametrize("options", [[], ["--on-error", "skip"]])
def test_plain_texts_that_are_said_to_be_objects(run, options):
    _, records, err = run(lines(TEXTS[:2]), "--objects", *options)
    sentence = (
        "it is no JSON object (Expecting value at 1); if lines are plain texts, give --plain in place of --objects"
    )
    assert sentence in (records[0]["error"] if options else err)


def test_stdout_has_a_name(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(lines(TEXTS[:3]), "--output", "-") == run(lines(TEXTS[:3]))
    code, _, err = run(lines(TEXTS[:3]), "--output", "-", "--resume")
    assert (code, err) == (2, "pointsman: --resume goes on with a file; say which with --output\n")
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


def test_a_gzipped_file_on_stdin(infiller, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(gzip.compress(lines().encode()))))
    assert cli.main(["infill", "b", "--input", "-", "--jsonl"]) == 2
    assert capsys.readouterr().err == (
        "pointsman: line 1 of the input: it is packed by gzip; unpack it, as by `zcat FILE |`, which gives its lines\n"
    )


@pytest.mark.parametrize("name", ["z.jsonl.gz", "z.XZ", "z.parquet"])
def test_an_output_whose_name_promises_another_kind(run, tmp_path, name):
    code, _, err = run(lines(), "--output", str(tmp_path / name))
    assert (code, [path.name for path in tmp_path.iterdir()]) == (2, ["texts"])
    assert f"--output has a name that ends in {name[name.rindex('.') :]}, and records are JSON lines; leave " in err


def test_a_name_that_promises_gzip(infiller, tmp_path, capsys):
    path = tmp_path / "texts.gz"
    path.write_text(lines())
    assert cli.main(["infill", "b", "--input", str(path), "--jsonl"]) == 2
    assert "texts.gz is not gzip, though its name says so" in capsys.readouterr().err


BAD = [
    ("nothing missing\n", "has no blank"),
    ("<extra_id_0> \udcff\n", "byte 0xFF at 14 is not UTF-8; save the file as UTF-8"),
    ("word " * 3000 + "<extra_id_0>\n", "tokens"),
]


@pytest.mark.parametrize(("line", "why"), BAD)
def test_a_bad_line_ends_the_run_after_those_before_it(run, line, why):
    code, records, err = run((lines(TEXTS[:3]) + line + lines(TEXTS[:1])).encode(errors="surrogateescape"))
    assert code == 2
    assert [record["line"] for record in records] == [1, 2, 3]
    assert err.splitlines()[-1].startswith("pointsman: line 4: ")
    assert why in err
    assert err.endswith("; to go on after such lines, add --on-error skip\n")


@pytest.mark.parametrize(("line", "why"), BAD)
def test_a_bad_line_is_skipped_with_a_record_that_says_why(run, line, why):
    content = (lines(TEXTS[:3]) + line + lines(TEXTS[:1])).encode(errors="surrogateescape")
    code, records, err = run(content, "--on-error", "skip")
    assert code == 0
    assert err.endswith(", 1 with an error: done\n")
    assert [sorted(record) for record in records] == [["fills", "line"]] * 3 + [["error", "line"], ["fills", "line"]]
    assert why in records[3]["error"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("[1]", "it is no JSON object but a list"),
        ("42", "it is no JSON object but a number"),
        ("null", "it is no JSON object but null"),
        ("true", "it is no JSON object but a truth value"),
        ('{"text": "<extra_id_0>", "id": -1e888}', "it is no JSON object (-1e888 is past all numbers)"),
        ('"\\ud800"', "it is no JSON object but a string"),
        ('{"text": "<extra_id_0> \\ud800"}', "the text is not valid Unicode: character 13 is half a surrogate pair"),
        ('{"text": 5, "id": 9}', "its text is no string but 5; put it in quotes"),
        ('{"id": 9}', "the object has no text; every object needs one"),
        ('{"text": "a" "id"}', "it is no JSON object (Expecting ',' delimiter at 14)"),
        ('{"text": "\udce9"}', "byte 0xE9 at 11 is not UTF-8"),
        ("[" * 100_000, "it is no JSON object ("),
        ('{"text": "", "id": NaN}', "it is no JSON object (NaN is no JSON)"),
    ],
)
def test_objects_that_are_none(run, bad, why):
    content = f"{json.dumps({'text': TEXTS[0]})}\n{bad}\n".encode(errors="surrogateescape")
    _, records, _ = run(content, "--on-error", "skip")
    assert records[1]["error"].startswith(why)
    assert records[1].get("id") == (9 if "9" in bad else None)


def test_a_request_that_fails_while_it_is_filled_does_not_take_its_neighbours_along(run, infiller, monkeypatch):
    fill = infiller.fill_groups

    def failing(requests, batch_size, **done):
        if any(request.number == 2 for request in requests):
            raise OptionsError("input 0: there is no possible token")
        return fill(requests, batch_size, **done)

    monkeypatch.setattr(infiller, "fill_groups", failing)
    code, records, _ = run(lines(TEXTS[:5]), "--on-error", "skip")
    assert code == 0
    assert ["error" in record for record in records] == [False, False, True, False, False]


def test_the_input_is_no_output(run, tmp_path):
    code, _, err = run(lines(), "--output", str(tmp_path / "texts"), "--resume")
    assert (code, err) == (2, "pointsman: --output is the input; choose another\n")
    assert (tmp_path / "texts").read_text() == lines()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--output", "nowhere/records"], "there is no folder nowhere; make it, or choose another --output"),
        (["--output", "records", "--max-new-tokens", "0"], "--max-new-tokens is 0"),
        (["--output", "."], ". is a folder; name a file in it"),
        (["--output", "/dev/full"], "/dev/full is no file; choose a file, or leave out --output to write to stdout"),
    ],
)
def test_a_run_that_cannot_begin_leaves_no_output(run, tmp_path, monkeypatch, options, sentence):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(lines(), *options)
    assert (code, err.count("\n")) == (2, 1)
    assert sentence in err
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


def test_a_byte_order_mark(run):
    _, records, _ = run("\ufeff" + json.dumps({"id": 1, "text": TEXTS[0]}) + "\n")
    assert records[0]["id"] == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--jsonl"], "--jsonl fills the lines of a file; say which with --input FILE, where - is stdin"),
        (["--input", "texts"], "--input gives one JSON object for each line; add --jsonl"),
        (["another text", "--input", "texts", "--jsonl"], "leave out --input and --jsonl, or the other texts"),
        (["--json", "--input", "texts", "--jsonl"], "leave out --json"),
        (["a <extra_id_0>", "--resume"], "are for the lines of a file; add --input FILE --jsonl"),
        (["a <extra_id_0>", "--plain"], "are for the lines of a file; add --input FILE --jsonl"),
        (["--input", ".", "--jsonl"], ". is a folder; name a file in it"),
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
    assert capsys.readouterr().err.endswith("\npointsman: interrupted after 20 lines; go on with --resume\n")
    assert len(output.read_text().splitlines()) == 20


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


def test_a_line_alone_waits_for_no_others(infiller, monkeypatch, capsys):
    """With one text at a time there is nothing to put together, so nothing is read ahead."""
    seen = []

    def slowly():
        for text in TEXTS[:3]:
            seen.append(capsys.readouterr().out.count("\n"))
            yield f"{text}\n".encode()

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=slowly()))
    assert cli.main(["infill", "b", "--input", "-", "--jsonl", "--batch-size", "1"]) == 0
    assert seen == [0, 1, 1]
