"""The programs in docs/python.md, run one after the other as they stand there."""

import pytest

from e2e.pages import PAGES, Example, examples, run
from places import EXAMPLES

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
