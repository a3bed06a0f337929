"""Reading C4 files: forms, order, memory, and the sentence that each damaged file gets."""

import gzip
import hashlib
import itertools
import json
import tracemalloc
from pathlib import Path

import pytest

from places import SHARED_DATA
from pointsman.errors import CorpusError
from pointsman_calib.corpus.c4 import read_documents

SHARED = SHARED_DATA / "c4"
STAMP = {"timestamp": "2019-04-25T12:57:54Z", "url": "https://example.com/"}


def record(text: str) -> bytes:
    return json.dumps({"text": text} | STAMP, ensure_ascii=False).encode() + b"\n"


def write(path: Path, texts: list[str]) -> Path:
    data = b"".join(map(record, texts))
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def texts_of(*sources: str | Path) -> list[str]:
    return [document.text for document in read_documents(sources)]


@pytest.mark.parametrize("name", ["c4.json.gz", "c4.json", "gzip-without-the-suffix.json"])
def test_one_file(tmp_path, name):
    path = write(tmp_path / name, ["Ein Zug.", "Zwei\nZüge."])
    if name.startswith("gzip"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    documents = list(read_documents([path]))
    assert [document.text for document in documents] == ["Ein Zug.", "Zwei\nZüge."]
    assert [document.place for document in documents] == [f"{path}:1", f"{path}:2"]
    assert documents[1].sha256 == hashlib.sha256("Zwei\nZüge.".encode()).hexdigest()


def test_a_document_is_the_same_wherever_it_was_read(tmp_path):
    here = next(read_documents([write(tmp_path / "a.json", ["x"])]))
    there = next(read_documents([write(tmp_path / "b.json.gz", ["x"])]))
    assert here.sha256 == there.sha256
    assert here.place != there.place


def test_files_patterns_and_their_order(tmp_path):
    for name, text in (("c4-train.00001.json.gz", "b"), ("c4-train.00000.json.gz", "a"), ("other.json", "z")):
        write(tmp_path / name, [text])
    assert texts_of(tmp_path / "other.json", f"{tmp_path}/c4-train.*.json.gz") == ["z", "a", "b"]
    assert texts_of(f"{tmp_path}/**/*.json.gz", tmp_path / "c4-train.00000.json.gz") == ["a", "b"]


def test_a_file_whose_name_has_brackets(tmp_path):
    assert texts_of(write(tmp_path / "c4[1].json", ["a"])) == ["a"]


def test_blank_lines_windows_line_ends_and_a_missing_last_one(tmp_path):
    path = tmp_path / "c4.json"
    path.write_bytes(b"\xef\xbb\xbf" + record("a").replace(b"\n", b"\r\n") + b"\n  \n" + record("b").rstrip())
    documents = list(read_documents([path]))
    assert [document.text for document in documents] == ["a", "b"]
    assert documents[1].place == f"{path}:4"


def test_members_of_a_gzip_file_follow_each_other(tmp_path):
    path = tmp_path / "c4.json.gz"
    path.write_bytes(gzip.compress(record("a")) + gzip.compress(record("b")))
    assert texts_of(path) == ["a", "b"]


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "c4.json.gz"
    line = record("tracks and points " * 100)
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(10_000):  # 18 MB
            file.write(line)
    tracemalloc.start()
    count = sum(1 for _ in read_documents([path]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 10_000
    assert peak < 2 << 20


def test_only_what_is_asked_for_is_read(tmp_path):
    good, bad = write(tmp_path / "a.json.gz", ["a", "b"]), tmp_path / "b.json.gz"
    bad.write_bytes(b"not gzip")
    documents = read_documents([good, bad])
    assert [document.text for document in itertools.islice(documents, 2)] == ["a", "b"]
    with pytest.raises(CorpusError, match=r"b\.json\.gz is not gzip"):
        next(documents)


def test_the_published_form():
    if not SHARED.is_dir():
        pytest.skip("the C4 sample is not beside the checkout")
    documents = list(read_documents([f"{SHARED}/c4-train.*.json.gz"]))
    assert len(documents) == 800
    assert documents[0].text.startswith("Beginners BBQ Class Taking Place in Missoula!\n")


def cut_off(path: Path) -> None:
    whole = gzip.compress(b"".join(record(f"{n} " + hashlib.sha256(bytes([n])).hexdigest() * 9) for n in range(200)))
    path.write_bytes(whole[: len(whole) // 2])


def changed(path: Path) -> None:
    data = bytearray(gzip.compress(record("a") + record("b")))
    data[-8] ^= 1  # the checksum
    path.write_bytes(data)


GZ_FAULTS = {
    "not gzip": (lambda path: path.write_bytes(record("a")), r"is not gzip, though its name says so; download it"),
    "empty file": (lambda path: path.write_bytes(b""), r"is not gzip, though its name says so"),
    "nothing in it": (lambda path: path.write_bytes(gzip.compress(b"")), r"c4\.json\.gz: no documents; a corpus has"),
    "cut off": (cut_off, r"c4\.json\.gz is cut off after line [1-9]\d*; download it again$"),
    "changed": (changed, r"c4\.json\.gz is damaged after line 2 \(CRC check failed .*; download it again$"),
    "rubbish after": (
        lambda path: path.write_bytes(gzip.compress(record("a")) + b"rubbish"),
        r"damaged after line 1 \(Not a gzipped file",
    ),
}


@pytest.mark.parametrize(("damage", "sentence"), GZ_FAULTS.values(), ids=GZ_FAULTS.keys())
def test_damaged_gzip(tmp_path, damage, sentence):
    path = tmp_path / "c4.json.gz"
    damage(path)
    refused(lambda: texts_of(path), sentence)


LINE_FAULTS = {
    "not JSON": (b"once upon a time\n", r"c4\.json:2 is plain text, no JSON; a corpus has one"),
    "cut off": (record("abc")[:9], r"c4\.json:2 is broken JSON \("),
    "a JSON array": (b'[{"text": "a"}]\n', r"c4\.json:2 is no JSON object; "),
    "no text": (
        b'{"content": "a"}\n',
        r'c4\.json:2 has no "text"; a corpus has one JSON object a line, such as \{"text": ',
    ),
    "text is no string": (b'{"text": null}\n', r'the "text" of .*c4\.json:2 is no string; '),
    "not UTF-8": (b'{"text": "caf\xe9"}\n', r"c4\.json:2 is not UTF-8 \(byte 0xE9\); "),
    "half a surrogate pair": (b'{"text": "\\ud83d"}\n', r"c4\.json:2 holds half of a surrogate pair"),
    "nested too deeply": (b"[" * 200_000, r"c4\.json:2 is nested too deeply; "),
}


@pytest.mark.parametrize(("line", "sentence"), LINE_FAULTS.values(), ids=LINE_FAULTS.keys())
def test_lines_that_are_no_records(tmp_path, line, sentence):
    path = tmp_path / "c4.json"
    path.write_bytes(record("a") + line)
    refused(lambda: texts_of(path), sentence)


def test_a_line_without_end(tmp_path):
    path = tmp_path / "c4.json.gz"
    path.write_bytes(gzip.compress(b'{"text": "' + b"a" * (65 << 20), compresslevel=1))
    refused(lambda: texts_of(path), r"c4\.json\.gz:1 is longer than 64 MiB; a corpus has one")


SOURCE_FAULTS = {
    "nothing named": ([], r"^no corpus was named; give files of JSON lines, patterns, or allenai/c4$"),
    "no such file": (
        ["c4-train.json.gz"],
        r"^there is no file c4-train\.json\.gz; give files of JSON lines, patterns, or",
    ),
    "no such file in a folder": (
        ["c4/train.json.gz"],
        r"^there is no file c4/train\.json\.gz; give files of JSON lines",
    ),
    "a path of that form": ([Path("allenai/c4")], r"^there is no file allenai/c4; give"),
    "no match": (["c4-*.json.gz"], r"^no file matches c4-\*\.json\.gz; check the folder and the pattern$"),
    "a folder": (["."], r"^\. is a folder; name its files, for example \./c4-train\.\*\.json\.gz$"),
}


@pytest.mark.parametrize(("sources", "sentence"), SOURCE_FAULTS.values(), ids=SOURCE_FAULTS.keys())
def test_sources_that_name_no_file(tmp_path, monkeypatch, sources, sentence):
    monkeypatch.chdir(tmp_path)
    refused(lambda: read_documents(sources), sentence)  # at once, before anything is read


def refused(act, sentence: str) -> None:
    with pytest.raises(CorpusError, match=sentence) as raised:
        act()
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2
