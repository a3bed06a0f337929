"""The programs in docs/python.md, run one after the other as they stand there, and the figures that they give."""

import re

import pytest

from e2e.pages import PAGES, Example, examples, run
from places import EXAMPLES, ROOT

PROGRAMS = {
    section.partition("\n")[0]: Example("python", "".join(example.code for example in examples(section)))
    for section in PAGES["python"].split("\n## ")[1:]
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where they run: each goes on with what those before it made."""
    place = tmp_path_factory.mktemp("programs")
    (place / "examples").symlink_to(EXAMPLES)
    return place


@pytest.mark.parametrize("section", PROGRAMS)
def test_programs(folder, section):
    assert run(PROGRAMS[section], folder)


def test_a_fill_that_is_the_same_as_in_transformers(folder):
    """The program prints transformers' tokens, then ours."""
    theirs, ours, _ = run(PROGRAMS["What a fill is held to"], folder).splitlines()
    assert theirs == ours


def test_transformers_are_those_that_the_claim_is_about():
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (version,) = re.findall(r"^transformers==(.+)$", pinned, re.MULTILINE)
    assert re.findall(r"pip install \"transformers==(.+?)\"", PAGES["python"]) == [version]


def test_what_scores_are(folder):
    """What is said of the numbers holds of those that the program prints, which are those of the table."""
    *fills, total = run(PROGRAMS["Scores"], folder).splitlines()
    assert len({re.search(r"\[.+\]", line)[0] for line in fills}) == 1
    greedy, beams, *free = (float(line.split()[-1]) for line in fills)
    summed, divided = map(float, re.findall(r"-\d+\.\d+", total))
    assert beams < greedy
    assert free == pytest.approx([divided] * 2, abs=2e-4)
    (table,) = re.findall(r"^\| \| score \|.+?\n\n", PAGES["python"], re.MULTILINE | re.DOTALL)
    said = [float(figure) for figure in re.findall(r"-\d+\.\d+", table)]
    assert said == pytest.approx([greedy, beams, free[0], summed], abs=2e-3)
