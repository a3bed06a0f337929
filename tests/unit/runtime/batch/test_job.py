"""A job's records and the file beside them: gone on with where they were left, by the same job and one process."""

import fcntl
import io
import json
import signal
import sys
from types import SimpleNamespace

import pytest
from batch_texts import TEXTS, lines

from pointsman.cli import main as cli
from pointsman.cli.batch.stopping import Stopping
from pointsman.cli.output import Interrupted


@pytest.fixture
def job(job):
    """As of all tests; gives what the output then holds as well."""

    def use(content: str, *options: str):
        code, err = job(content, *options)
        return code, err, job.output.read_bytes() if job.output.is_file() else None

    use.output, use.beside = job.output, job.beside
    return use


def cut(job, count, torn=b""):
    """Leave what a process that was killed may leave."""
    whole = job.output.read_bytes()
    job.output.write_bytes(b"".join(whole.splitlines(keepends=True)[:count]) + torn)
    return whole


@pytest.mark.parametrize("torn", [b"", b'{"li', b'{"line": 18, "fil'])
@pytest.mark.parametrize("count", [0, 1, 17, 40])
@pytest.mark.parametrize("size", ["1", "2", "32"])
def test_resuming_gives_what_one_run_gives(job, count, torn, size):
    job(lines(), "--batch-size", size)
    beside = job.beside.read_bytes()
    whole = cut(job, count, torn if count == 17 else torn[:4])
    code, err, found = job(lines(), "--resume", "--batch-size", size)
    assert (code, found, job.beside.read_bytes()) == (0, whole, beside)
    there = {0: "", 40: ", all there already: done\n"}.get(count, f" ({count} there already)")
    assert err.startswith(f"pointsman: 40 of 40 lines{there}")


@pytest.mark.parametrize("left", ["digests beyond the records", "a digest that was begun", "no record"])
def test_what_was_only_begun_beside_the_records_is_cut_off(job, left):
    job(lines(TEXTS[:10]))
    begun = job.beside.read_bytes()
    whole = cut(job, 0 if left == "no record" else 10)
    job.beside.write_bytes(begun + (b"0123" if left == "a digest that was begun" else b"0" * 16 + b"\n"))
    code, _, found = job(lines(TEXTS[:10]), "--resume")
    assert (code, found, job.beside.read_bytes()) == (0, whole, begun)


def test_an_output_is_not_overwritten(job):
    job.output.write_text("mine\n")
    code, err, found = job(lines())
    assert (code, err.count("\n"), found) == (2, 1, b"mine\n")
    assert "exists; go on with it by --resume" in err
    code, err, found = job(lines(), "--resume")
    assert (code, found) == (2, b"mine\n")
    assert "records has no records.job beside it, which says how it was begun; begin anew with another" in err


def test_a_file_of_someone_elses_is_where_the_jobs_would_be(job):
    job.beside.write_text('{"mine": 1}\n')
    code, err, _ = job(lines())
    assert (code, job.beside.read_text()) == (2, '{"mine": 1}\n')
    assert "records.job is there and is no job of this command; choose another --output" in err
    job.output.unlink()


def test_a_job_whose_records_were_removed_begins_anew(job):
    job(lines(), "--num-beams", "2")
    job.output.unlink()
    assert job(lines(TEXTS[::-1]))[0] == 0
    assert job(lines(TEXTS[::-1]), "--resume")[0] == 0


@pytest.mark.parametrize("content", [b"mine", b'{"line": 2', b'{"text": "mine"}', b'{"line": 1, "fills": []}\nmine'])
def test_records_that_are_no_longer_the_jobs_are_left_as_they_are(job, content):
    job(lines())
    job.output.write_bytes(content)
    code, err, found = job(lines(), "--resume")
    assert (code, found) == (2, content)
    assert "does not hold the records of this job" in err


def test_how_lines_are_taken_may_be_said_later(job):
    """A run that finds it in doubt after some records ends; with the flag it goes on."""
    texts = [*TEXTS[:3], '{"a": "<extra_id_0>"}']
    assert job(lines(texts), "--batch-size", "1")[0] == 2
    assert len(job.output.read_bytes().splitlines()) == 3
    code, _, found = job(lines(texts), "--batch-size", "1", "--resume", "--plain")
    assert (code, len(found.splitlines())) == (0, 4)


def test_empty_lines_do_not_say_how_others_are_taken(job):
    assert job("\n\n")[0] == 0
    code, _, found = job(f"\n\n{json.dumps({'text': TEXTS[0]})}\n", "--resume")
    assert (code, len(found.splitlines())) == (0, 3)


def test_a_job_with_fewer_digests_than_records(job):
    job(lines())
    job.beside.write_bytes(job.beside.read_bytes()[:-5])
    code, err, _ = job(lines(), "--resume")
    assert code == 2
    assert "records.job has fewer lines than" in err


@pytest.mark.parametrize(
    ("begun", "then", "said"),
    [
        (["--num-beams", "4"], ["--num-beams", "3"], "was begun with --num-beams 4, and this run has --num-beams 3"),
        (
            [],
            ["--max-new-tokens", "9"],
            "was begun with no --max-new-tokens, and this run has --max-new-tokens 9; give what it was begun with",
        ),
        (["--no-constrain"], [], "was begun with no --constrain, and this run has --constrain"),
        (
            ["--do-sample", "--seed", "3"],
            ["--do-sample", "--seed", "4"],
            "begun with --seed 3, and this run has --seed 4",
        ),
        (["--objects"], ["--plain"], "was begun with --objects, and this run has --plain; give what it was begun with"),
    ],
)
def test_another_job_of_other_options_does_not_go_on(job, begun, then, said):
    """Also where what it has answered would have come out the same."""
    job("\n" * 4, *begun)
    kept = job.output.read_bytes()
    code, err, found = job("\n" * 8, "--resume", *then)
    assert (code, err.count("\n"), found) == (2, 1, kept)
    assert said in err


@pytest.mark.parametrize("what", ["variant", "device", "bundle"])
def test_another_model_does_not_go_on(job, infiller, monkeypatch, what):
    job(lines())
    model = infiller.model
    if what == "bundle":
        changed = {name: _reweighed(variant) for name, variant in model.manifest.variants.items()}
        monkeypatch.setattr(model, "manifest", _with(model.manifest, variants=changed))
    else:
        other = {"variant": "portable-float32", "device": "cuda"}[what]
        monkeypatch.setattr(model, "choice", _with(model.choice, **{what: other}))
    code, err, _ = job(lines(), "--resume")
    assert code == 2
    assert f"was begun with {'' if what == 'bundle' else '--'}{what} " in err


def _with(record, **changes):
    return type(record)(**{name: changes.get(name, getattr(record, name)) for name in record.__dataclass_fields__})


def _reweighed(variant):
    return _with(variant, files=tuple(_with(file, sha256="f" * 64) for file in variant.files))


@pytest.mark.parametrize("number", [0, 20, 29])
@pytest.mark.parametrize("change", ["text", "id", "end"])
def test_a_changed_line_among_those_answered_is_found(job, number, change):
    texts = [json.dumps({"id": each, "text": text}) for each, text in enumerate(TEXTS)]
    job(lines(texts), "--batch-size", "2")
    kept = cut(job, 30)[: job.output.stat().st_size]
    changed = {"text": {"id": number, "text": "a <extra_id_0>"}, "id": {"id": "b", "text": TEXTS[number]}}
    others = [*texts[:number], *([json.dumps(changed[change])] if change in changed else []), *texts[number + 1 :]]
    content = lines(others if change != "end" else texts[:number])
    code, err, found = job(content, "--resume", "--batch-size", "2")
    assert (code, found) == (2, kept)
    if change == "end":
        assert f"the input has {number} lines, and {job.output} has answered 30; give the input as it was" in err
    else:
        assert f"line {number + 1} of the input has changed since {job.output} answered it; give the input" in err


def test_what_may_change(job, monkeypatch):
    """The input grows, comes from stdin, and is put together otherwise; a line that ended the run is mended."""
    whole = [json.loads(line) for line in job(lines())[2].splitlines()]
    job.output.unlink()
    assert job(lines([*TEXTS[:30], "no blank"]), "--batch-size", "4")[0] == 2
    assert len(job.output.read_bytes().splitlines()) == 30
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines(TEXTS).replace("\n", "\r\n").encode())))
    options = ["--threads", "1", "--on-error", "skip", "--batch-size", "3", "--output", str(job.output), "--resume"]
    assert cli.main(["infill", "b", "--input", "-", "--jsonl", *options]) == 0
    found = [json.loads(line) for line in job.output.read_bytes().splitlines()]
    for record, other in zip(whole, found, strict=True):
        assert record["line"] == other["line"]
        assert record["fills"][0]["text"] == other["fills"][0]["text"]


def test_errors_of_before_are_counted(job):
    texts = ["no blank", *TEXTS[:5], "no blank"]
    job(lines(texts), "--on-error", "skip")
    cut(job, 3)
    assert job(lines(texts), "--on-error", "skip", "--resume")[1].endswith(", 2 with an error: done\n")


def test_samples_without_a_seed_go_on_with_the_one_that_was_drawn(job):
    job(lines(), "--do-sample")
    whole = cut(job, 20)
    assert job(lines(), "--do-sample", "--resume")[2] == whole
    seed = json.loads(job.beside.read_bytes().splitlines()[0])["--seed"]
    job.output.unlink()
    assert job(lines(), "--do-sample", "--seed", str(seed))[2] == whole
    job.output.unlink()
    assert job(lines(), "--do-sample")[2] != whole


def test_an_output_has_one_process(job):
    job(lines())
    with job.output.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for options in ([], ["--resume"]):
            code, err, _ = job(lines(), *options)
            assert code == 2
            assert (
                err == f"pointsman: another process is writing {job.output}; wait for it, or choose another --output\n"
            )
    assert job(lines(), "--resume")[0] == 0


def test_a_file_system_without_locks(job, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert job(lines())[0] == 0


def test_a_signal_does_not_part_a_record_from_its_being_counted():
    stopping, done, before = Stopping(), [], signal.getsignal(signal.SIGTERM)

    def write_and_count():
        with stopping.taken(), stopping.held():
            signal.raise_signal(signal.SIGTERM)
            done.append("counted")

    with pytest.raises(Interrupted) as caught:
        write_and_count()
    assert done == ["counted"]
    assert caught.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stopping().taken():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
