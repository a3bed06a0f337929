"""The commands and the program of docs/batch.md, run one after the other as they stand there."""

import json
from pathlib import Path

import pytest

from e2e.pages import PAGES, follow


@pytest.fixture(scope="module")
def ran(demo, tmp_path_factory) -> tuple[Path, list[str]]:
    """A folder in which all of it has been run, and what each block printed."""
    folder = tmp_path_factory.mktemp("batch")
    (folder / "build").symlink_to(demo / "build")
    return folder, follow(PAGES["batch"], folder)


def test_records(ran):
    folder, printed = ran
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert [record["line"] for record in records] == [1, 2, 3, 4]
    assert printed[1].split() == ["1", "1", "0", "1"]
    assert [len(record["fills"][0]["spans"]) for record in records if record["fills"]] == [1, 2, 1]


def test_objects(ran):
    first, second = (json.loads(line) for line in ran[1][2].splitlines())
    assert (first["id"], second["id"]) == ("a7", "a8")
    assert first["fills"]
    assert second["error"].startswith("the text has no blank")


def test_lines_that_failed_are_counted(ran):
    assert ran[1][3] == "1\n"


def test_the_program_draws_what_the_command_draws(ran):
    folder, printed = ran
    drawn = [json.loads(line) for line in printed[6].splitlines()]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [sample["line"] for sample in samples] == [1, 2, 4]
    assert samples == [
        {"line": record["line"], "fills": [fill["text"] for fill in record["fills"]]}
        for record in drawn
        if record["fills"]
    ]


def test_scores(ran):
    scores = [float(line.split()[0]) for line in ran[1][7].splitlines()]
    assert len(scores) == 2
    assert all(score < 0 for score in scores)
