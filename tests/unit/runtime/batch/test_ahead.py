"""What is filled before an earlier line's record outlives a stop: each run goes on from there."""

import contextlib
import json
import re

import pytest
from batch_texts import TEXTS, lines


def stopped(infiller, groups):
    """Lets a run fill so many groups until it is stopped; what it has written by then is what a kill leaves, too."""
    fill, left = infiller.fill_groups, groups

    def few(*arguments, **keywords):
        nonlocal left
        for group in fill(*arguments, **keywords):
            if not left:
                raise KeyboardInterrupt
            left -= 1
            yield group

    @contextlib.contextmanager
    def while_it_lasts():
        infiller.fill_groups = few
        try:
            yield
        finally:
            infiller.fill_groups = fill

    return while_it_lasts()


@pytest.fixture
def job(job):
    """As of all tests, with both files, and the lines that have records in them."""
    job.files = lambda: (job.output.read_bytes(), job.beside.read_bytes())
    job.lines = lambda: {json.loads(line)["line"] for file in job.files() for line in records_of(file)}
    return job


def records_of(file):
    return [line for line in file.splitlines() if line.startswith(b'{"line"')]


@pytest.fixture
def anew(job):
    """The files of one run that nothing stops."""

    def use(content: str, *options: str):
        job.output.unlink(missing_ok=True)
        assert job(content, *options)[0] == 0
        files = job.files()
        job.output.unlink()
        return files

    return use


@pytest.mark.parametrize("options", [[], ["--num-beams", "2"], ["--do-sample", "--seed", "4"]])
@pytest.mark.parametrize("size", ["2", "3", "32"])
def test_every_run_goes_further(job, anew, infiller, options, size):
    options = ["--batch-size", size, *options]
    whole = anew(lines(), *options)
    before, runs = 0, 0
    code = 130
    while code == 130:
        with stopped(infiller, 1):
            code, _ = job(lines(), "--resume", *options)
        filled = len(job.lines())
        assert filled > before or code == 0
        before, runs = filled, runs + 1
    assert code == 0
    assert runs >= len(TEXTS) // int(size)
    assert job.files() == whole


@pytest.mark.parametrize(
    "torn", [b"{", b'{"line": 39, "fills": [{"tex', b'{"line": 39, "fills": []', b"mine\n", b"0" * 16]
)
def test_what_was_only_begun_is_filled_again(job, anew, infiller, torn):
    whole = anew(lines(), "--batch-size", "4")
    with stopped(infiller, 3):
        assert job(lines(), "--batch-size", "4")[0] == 130
    filled = job.lines()
    assert len(filled) == 12
    with job.beside.open("ab") as beside:
        beside.write(torn)
    with stopped(infiller, 1):
        assert job(lines(), "--batch-size", "4", "--resume")[0] == 130
    assert filled < job.lines()
    assert job(lines(), "--batch-size", "4", "--resume")[0] == 0
    assert job.files() == whole


@pytest.mark.parametrize("size", ["4", "8"])
@pytest.mark.parametrize("content", [lines([*TEXTS[:-1], "another <extra_id_0>"]), lines([*TEXTS, "a <extra_id_0>"])])
def test_other_lines_or_batches_are_filled_together_anew(job, anew, infiller, content, size):
    """So that records are those of one run, of the lines as they are now."""
    whole = anew(content, "--batch-size", size)
    with stopped(infiller, 1):
        assert job(lines(), "--batch-size", "4")[0] == 130
    first = job.output.read_bytes()
    assert len(first.splitlines()) < len(job.lines())
    assert job(content, "--batch-size", size, "--resume")[0] == 0
    assert job.files() == whole
    assert whole[0].startswith(first)


def test_a_line_that_ends_a_run_may_be_skipped_by_the_next(job, anew, infiller):
    texts = [*TEXTS[:18], "no blank", *TEXTS[18:]]
    whole = anew(lines(texts), "--batch-size", "4", "--on-error", "skip")
    assert job(lines(texts), "--batch-size", "4")[0] == 2
    assert len(job.output.read_bytes().splitlines()) == 18 < len(job.lines())
    assert job(lines(texts), "--batch-size", "4", "--on-error", "skip", "--resume")[0] == 0
    assert job.files() == whole


def test_what_is_filled_is_counted(job, infiller):
    with stopped(infiller, 2):
        _, err = job(lines(), "--batch-size", "4")
    done, ahead = map(int, re.search(r"interrupted after (\d+) lines?, and (\d+) more are filled; go on", err).groups())
    assert done == len(job.output.read_bytes().splitlines())
    assert done + ahead == 8
    _, err = job(lines(), "--batch-size", "4", "--resume")
    assert err.startswith(f"pointsman: 40 of 40 lines ({done} there already)")
    with job.output.open("r+b") as records:  # what had waited may have been given before a run was killed
        records.truncate(0)
    with stopped(infiller, 8):
        job(lines(), "--batch-size", "4", "--resume")
    given = len(job.output.read_bytes().splitlines())
    assert {*range(1, given)} & {json.loads(line)["line"] for line in records_of(job.beside.read_bytes())}
    _, err = job(lines(), "--batch-size", "4", "--resume")
    assert err.startswith(f"pointsman: 40 of 40 lines ({given} there already)")


def test_nothing_waits_where_a_line_does_not_wait_for_others(job, infiller):
    with stopped(infiller, 1):
        assert job(lines(), "--batch-size", "1")[0] == 130
    assert records_of(job.beside.read_bytes()) == []
    assert len(job.output.read_bytes().splitlines()) == 1
