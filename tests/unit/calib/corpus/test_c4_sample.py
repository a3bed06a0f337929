"""The sample that is shipped: it is what its text files say, in C4's form, and its two halves share nothing."""

import gzip
import json
import runpy
from pathlib import Path

import pytest

from places import EXAMPLES
from pointsman_calib.corpus.batches import examples
from pointsman_calib.corpus.c4 import read_documents
from pointsman_calib.corpus.documents import DocumentSet, refuse_overlap
from tiny_vocabulary import tiny_tokenizer

SAMPLE = EXAMPLES / "data"
COUNTS = {"train": 29, "validation": 12}


def file_of(split: str) -> Path:
    return SAMPLE / f"c4-sample-{split}.json.gz"


@pytest.mark.parametrize("split", COUNTS)
def test_the_files_are_what_the_script_writes(split):
    written = runpy.run_path(str(SAMPLE / "write_sample.py"))["records"](split)
    assert gzip.decompress(file_of(split).read_bytes()).decode() == written


@pytest.mark.parametrize(("split", "count"), COUNTS.items())
def test_records_have_the_official_form(split, count):
    with gzip.open(file_of(split)) as file:
        records = [json.loads(line) for line in file]
    assert len(records) == count
    assert {tuple(record) for record in records} == {("text", "timestamp", "url")}
    assert len({record["text"] for record in records}) == count


def test_every_document_is_used_and_none_twice():
    tokenizer = tiny_tokenizer()
    sets = {
        split: DocumentSet.of(examples(read_documents([file_of(split)]), tokenizer, seed=0, window=1024))
        for split in COUNTS
    }
    assert {split: len(documents) for split, documents in sets.items()} == COUNTS
    refuse_overlap(sets["train"], sets["validation"])
