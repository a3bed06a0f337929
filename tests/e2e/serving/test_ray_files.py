"""Files filled by actors of Ray into shards: stopped runs, bad rows, and rows that change."""

import gzip
import json
import os
import re
import shutil
import sys
from dataclasses import replace

import pytest

from e2e.serving.ray_rows import GOOD, TEXT, TEXTS, as_lines, write_rows
from pointsman import BundleError, BundleNotFoundError, DeviceError, OptionsError, OutputError, TextError
from pointsman.bundle import read_manifest, write_manifest

ray = pytest.importorskip("ray", reason="ray is not installed; `make test-slow` installs it")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture
def filling(bundle):
    from pointsman.ray import Filling

    return Filling(bundle=str(bundle), variant="fused-float32", threads=1, rows=5, fields={})


@pytest.fixture
def fill(filling, tmp_path):
    """Fill files into `out`, and name the shards that were written: an actor's work, in this process."""
    from pointsman.ray.files import plan_files
    from pointsman.ray.shards import Filler

    def run(*sources, on_change="fail", **settings):
        work = plan_files(sources, tmp_path / "out", replace(filling, **settings), on_change=on_change)
        filler = Filler(work.filling, work.content)
        return sorted(filler.make(shard).target.name for shard in work.shards)

    return run


@pytest.fixture(params=["parquet", "jsonl"])
def source(request, tmp_path):
    return write_rows(
        tmp_path / f"texts.{request.param}", [{"number": number, "text": text} for number, text in enumerate(TEXTS)]
    )


def rows_of(folder, kind):
    import pyarrow.parquet

    for path in sorted(folder.glob(f"texts-*.{kind}")):
        if kind == "parquet":
            yield from pyarrow.parquet.read_table(path).to_pylist()
        else:
            yield from map(json.loads, path.read_text().splitlines())


def test_files_in_shards_that_a_stopped_run_goes_on_with(cluster, filling, library, source, tmp_path):
    from pointsman.ray import fill_files

    fields = {"do_sample": True, "seed": 2}
    filling = replace(filling, fields=fields)
    shards = fill_files([source], tmp_path / "out", filling, actors=2)
    next(shards)
    del shards  # stopped
    left = len(list(fill_files([source], tmp_path / "out", filling)))
    assert left < 5
    rows = list(rows_of(tmp_path / "out", source.suffix[1:]))
    requests = [library.request(text, number=number, **fields) for number, text in enumerate(TEXTS)]
    assert [row["number"] for row in rows] == list(range(len(TEXTS)))
    assert [row["filled"] for row in rows] == [fills[0].text for fills in library.fill_requests(requests, 1)]
    assert list(rows[0]) == ["number", "text", "filled", "filled_score", "filled_error"]
    assert list(fill_files([source], tmp_path / "out", filling)) == []
    with pytest.raises(OutputError) as raised:
        fill_files([source], tmp_path / "out", replace(filling, rows=6, fields={"num_beams": 2}))
    assert str(raised.value) == (
        f"{tmp_path / 'out'} was begun with `do_sample=True`, `num_beams=1`, `rows=5`, `seed=2`, and this run has "
        "no `do_sample`, `num_beams=2`, `rows=6`, no `seed`; give what it was begun with, or choose another folder"
    )


def test_a_folder_has_one_run(cluster, filling, source, tmp_path):
    from pointsman.ray import fill_files

    running = fill_files([source], tmp_path / "out", filling)
    also = fill_files([source], tmp_path / "out", filling)
    next(running)
    said = f"another run is writing {tmp_path / 'out'}; wait for it, or choose another folder"
    with pytest.raises(OutputError, match=said):
        next(also)
    with pytest.raises(OutputError, match=said):
        fill_files([source], tmp_path / "out", filling)
    assert len([*running]) == 4
    assert [*fill_files([source], tmp_path / "out", filling)] == []


def test_the_folder_is_a_data_set(fill, source, tmp_path):
    """Readers of folders pass over what is beside the shards; bad rows change no columns."""
    import pyarrow.dataset

    write_rows(source, [*GOOD, {"number": 3, "text": "no blank"}])
    with pytest.raises(TextError):
        fill(source, rows=2)
    fill(source, rows=2, on_error="skip")
    kind = {".parquet": "parquet", ".jsonl": "json"}[source.suffix]
    names = [("number", pyarrow.int64()), ("filled_error", pyarrow.string())]
    schema = pyarrow.schema(names) if kind == "json" else None  # JSON has no types where all is null
    table = pyarrow.dataset.dataset(tmp_path / "out", schema, format=kind).to_table()
    assert table["number"].to_pylist() == [0, 1, 2, 3]
    assert [error is None for error in table["filled_error"].to_pylist()] == [True, True, True, False]


class Dying:
    """An actor without enough memory."""

    def make(self, shard):
        os._exit(1)


def test_an_actor_that_dies_again_and_again(cluster, tmp_path):
    from pointsman.ray.resumable import made
    from pointsman.ray.rows import Part
    from pointsman.ray.shards import Shard

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    shard = Shard(Part(tmp_path / "a.jsonl", 0, 1, 0), tmp_path / "a-00000.jsonl")
    with pytest.raises(DeviceError, match="an actor died 4 times at the same shard, as where memory does not suffice"):
        next(made(Dying, [], [shard], actors=1, cpus=1, gpus=0))


def test_a_seed_that_is_drawn_is_that_of_the_runs_that_follow(fill, library, source, tmp_path):
    fill(source, fields={"do_sample": True})
    fields = {"do_sample": True, "seed": json.loads((tmp_path / "out/_settings.json").read_text())["options"]["seed"]}
    first = list(rows_of(tmp_path / "out", source.suffix[1:]))
    requests = [library.request(text, number=number, **fields) for number, text in enumerate(TEXTS)]
    assert [row["filled"] for row in first] == [fills[0].text for fills in library.fill_requests(requests, 32)]
    (tmp_path / "out" / f"texts-00002{source.suffix}").unlink()
    assert fill(source, fields={"do_sample": True}) == [f"texts-00002{source.suffix}"]
    assert list(rows_of(tmp_path / "out", source.suffix[1:])) == first


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"number": 3, "te', "it is no JSON object (Unterminated string starting at at 15)"),
        ('["a"]', "it is no JSON object but a list"),
        ({"number": 3, "text": float("nan")}, "it is no JSON object (NaN is no JSON)"),
        ({"number": 3}, "the object has no text"),
        ({"number": 3, "text": 4}, "its text is no text but of type int"),
        ({"number": 3, "text": "no blank"}, "the text has no blank"),
        ({"number": 3, "text": "\ud800 <extra_id_0>"}, "the text "),
    ],
)
def test_a_bad_line(fill, library, tmp_path, row, reason):
    path = write_rows(tmp_path / "texts.jsonl", [*GOOD, row, GOOD[0]])
    with pytest.raises(TextError) as raised:
        fill(path)
    assert str(raised.value).startswith(f"{path}, row 4: {reason}")
    assert str(raised.value).endswith("; mend the row, or go on past such rows with `on_error='skip'`")
    assert "\n" not in str(raised.value)
    assert fill(path, on_error="skip") == ["texts-00000.jsonl"]
    rows = list(rows_of(tmp_path / "out", "jsonl"))
    assert [row["filled"] for row in rows] == [
        library.infill(text)[0].text if text else None for text in [*TEXTS[:3], None, TEXT]
    ]
    assert [row["filled_error"] is None for row in rows] == [True, True, True, False, True]
    assert rows[3]["filled_error"].startswith(reason)
    assert rows[3]["filled_score"] is None
    assert rows[3].get("number") == (3 if isinstance(row, dict) and row.get("text") == row.get("text") else None)
    with pytest.raises(TextError, match="row 4: "):
        fill(path)


def test_bad_rows_of_parquet(fill, tmp_path):
    rows = [*GOOD, {"number": 3, "text": None}, {"number": 4, "text": "no blank"}, {"number": 5, "text": ""}]
    path = write_rows(tmp_path / "texts.parquet", rows)
    with pytest.raises(TextError, match=r"texts\.parquet, row 4: the row has no text; mend the row, or"):
        fill(path, rows=3)
    fill(path, rows=3, on_error="skip")
    filled = list(rows_of(tmp_path / "out", "parquet"))
    assert [bool(row["filled"]) for row in filled] == [True] * 3 + [False] * 3
    assert [row.get("filled_error", "")[:22] for row in filled[3:5]] == [
        "the row has no text",
        "the text has no blank:",
    ]
    assert filled[5]["filled_error"] is None


def test_values_of_parquet_that_python_cannot_hold(fill, tmp_path):
    """Dates of other systems' infinities, and bytes that are no UTF-8: the first stay as they are."""
    import pyarrow as pa
    import pyarrow.parquet

    texts = pa.array([b"A <extra_id_0> day.", b"A \xff <extra_id_0>."], pa.binary()).view(pa.string())
    far = pa.array([2**60, None], pa.timestamp("us"))
    pa.parquet.write_table(pa.table({"text": texts, "far": far}), tmp_path / "texts.parquet")
    assert fill(tmp_path / "texts.parquet", on_error="skip") == ["texts-00000.parquet"]
    assert fill(tmp_path / "texts.parquet", on_error="skip") == []
    (shard,) = (tmp_path / "out").glob("*.parquet")
    table = pa.parquet.read_table(shard)
    assert table["far"].equals(pa.chunked_array([far]))
    assert [bool(one) for one in table["filled"].to_pylist()] == [True, False]
    assert table["filled_error"].to_pylist()[1].startswith("its text is no UTF-8 (")


def test_two_columns_of_one_name(fill, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    texts = pa.array(["A <extra_id_0> day."])
    pa.parquet.write_table(pa.Table.from_arrays([texts, texts], ["text", "text"]), tmp_path / "texts.parquet")
    with pytest.raises(TextError, match=r"texts\.parquet has 2 columns text; give all but one another name"):
        fill(tmp_path / "texts.parquet")


def test_an_empty_text_has_no_fill(fill, tmp_path):
    path = write_rows(tmp_path / "texts.jsonl", [*GOOD, "", {"number": 4, "text": ""}])
    fill(path)
    *_, line, text = rows_of(tmp_path / "out", "jsonl")
    nothing = {"filled": None, "filled_score": None, "filled_error": None}
    assert line == nothing
    assert text == {"number": 4, "text": "", **nothing}


def test_objects_of_a_file_may_differ(fill, tmp_path):
    path = write_rows(tmp_path / "texts.jsonl", [GOOD[0], {"more": {"a": ["ß"]}, "number": "x", "text": TEXT}])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    fill(path)
    first, second = rows_of(tmp_path / "out", "jsonl")
    assert (first["number"], second["number"], second["more"]) == (0, "x", {"a": ["ß"]})


def edited(rows):
    return [*rows[:6], rows[6] | {"text": "An <extra_id_0>."}, *rows[7:]]


@pytest.mark.parametrize(
    ("change", "shards"),
    [(edited, [1]), (lambda rows: rows[:14], [2, 3, 4]), (lambda rows: [*edited(rows), *rows[:2]], [1])],
    ids=["edited", "cut", "edited and grown"],
)
def test_rows_that_have_changed(fill, source, tmp_path, change, shards):
    rows = [{"number": number, "text": text} for number, text in enumerate(TEXTS)]
    fill(source)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("texts-*")}
    write_rows(source, change(rows))
    names = [f"texts-{number:05}{source.suffix}" for number in shards]
    with pytest.raises(OutputError) as raised:
        fill(source)
    assert str(raised.value) == (
        f"{source} has changed since {', '.join(names)} of {tmp_path / 'out'} had its rows; choose another folder, or "
        "have such shards made again with `on_change='redo'`"
    )
    written = fill(source, on_change="redo")
    wanted = change(rows)
    assert [row["text"] for row in rows_of(tmp_path / "out", source.suffix[1:])] == [row["text"] for row in wanted]
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("texts-*")}
    assert sorted(name for name, moment in after.items() if moment != before.get(name)) == written
    assert fill(source) == []


def test_a_file_that_has_grown(fill, source, tmp_path):
    """Its last shard is made again, and that alone; how lines end and rows are stored changes nothing."""
    fill(source)
    write_rows(source, [{"number": number, "text": text} for number, text in enumerate([*TEXTS, *TEXTS[:6]])])
    if source.suffix == ".jsonl":
        source.write_bytes(source.read_bytes().replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    assert fill(source) == [f"texts-{number:05}{source.suffix}" for number in (4, 5)]
    assert [row["number"] for row in rows_of(tmp_path / "out", source.suffix[1:])] == list(range(27))


def test_a_shard_whose_record_is_missing_was_not_finished(fill, source, tmp_path):
    fill(source)
    (tmp_path / "out/_made-from" / f"texts-00003{source.suffix}.json").unlink()
    assert fill(source) == [f"texts-00003{source.suffix}"]


def test_files_that_cannot_be_filled(fill, tmp_path):
    (tmp_path / "x.txt").write_text("text\n")
    with pytest.raises(TextError) as raised:
        fill(tmp_path / "x.txt")
    assert str(raised.value) == (
        f"{tmp_path / 'x.txt'} is neither .parquet nor .jsonl; write it as one of them, or fill a file of lines with "
        "`pointsman infill BUNDLE --input x.txt --jsonl`"
    )
    with pytest.raises(TextError) as raised:
        fill(tmp_path)
    assert str(raised.value) == (
        f"{tmp_path} is a folder; name its files, .parquet or .jsonl, such as {tmp_path}/*.parquet"
    )
    with pytest.raises(TextError, match="is not there; check the path"):
        fill(tmp_path / "y.jsonl")
    (tmp_path / "y.parquet").write_text("text\n")
    with pytest.raises(TextError, match=r"y\.parquet cannot be read \(.*\); check the file"):
        fill(tmp_path / "y.parquet")
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress(as_lines(GOOD).encode()))
    with pytest.raises(TextError, match=r"packed\.jsonl, row 1: it is packed by gzip; unpack it"):
        fill(tmp_path / "packed.jsonl")
    path = write_rows(tmp_path / "z.jsonl", [{"texts": "A <extra_id_0>."}])
    with pytest.raises(TextError) as raised:
        fill(path)
    assert str(raised.value) == f"{path} has no column text; it has texts; say which with `column`"
    assert not (tmp_path / "out").exists()
    with pytest.raises(OptionsError, match="two files are called z"):
        fill(path, path)


def test_a_bundle_is_what_it_holds(fill, bundle, source, tmp_path, monkeypatch):
    """However it is spelt, wherever it lies; so are a variant that `auto` takes and options that are as by default."""
    fill(source, variant="auto")
    last = tmp_path / f"out/texts-00004{source.suffix}"
    shutil.copytree(bundle, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    for spelt in (f"{bundle}/", "moved", "./moved/", f"file://{tmp_path}/moved", tmp_path / "moved"):
        last.unlink()
        assert fill(source, bundle=str(spelt), fields={"num_beams": 1, "early_stopping": False}) == [last.name]


def test_a_bundle_with_other_weights(fill, bundle, source, tmp_path):
    shutil.copytree(bundle, tmp_path / "mine")
    fill(source, bundle=str(tmp_path / "mine"))
    manifest = read_manifest(bundle)
    variant = manifest.variants["fused-float32"]
    retrained = replace(variant, files=tuple(replace(file, sha256=file.sha256[::-1]) for file in variant.files))
    write_manifest(replace(manifest, variants={"fused-float32": retrained}), tmp_path / "mine")
    said = (
        r"/out was begun with a bundle of content (\w{16}), and this run has a bundle of content (?!\1)\w{16}; give "
        "what it was begun with, or choose another folder$"
    )
    with pytest.raises(OutputError, match=said):
        fill(source, bundle=str(tmp_path / "mine"))


def test_a_bundle_that_is_replaced_under_a_run(filling, bundle, source, tmp_path):
    """What was planned for one is not done with another, on this machine or on others."""
    from pointsman.ray.files import plan_files
    from pointsman.ray.shards import Filler

    work = plan_files([source], tmp_path / "out", filling)
    with pytest.raises(BundleError) as raised:
        Filler(work.filling, "another").make(work.shards[0])
    assert str(raised.value) == (
        f"the bundle at {bundle} is not the one that this run began with; put that there on every machine"
    )


@pytest.mark.parametrize("written", ['{"bundle": "demo", "variant": "auto", "fields": {}}', '{"bund', "[]"])
def test_settings_of_which_nothing_can_be_told(fill, source, tmp_path, written):
    fill(source)
    (tmp_path / "out/_settings.json").write_text(written)
    with pytest.raises(OutputError) as raised:
        fill(source)
    assert str(raised.value) == (
        f"{tmp_path / 'out/_settings.json'} is damaged or was written by another release, and does not say how the "
        "shards beside it were made; choose another folder"
    )


def test_one_fill_for_each_text(filling, bundle):
    from pointsman.ray import fill

    said = "num_return_sequences is 3 and the best fill alone is written; leave it out"
    with pytest.raises(OptionsError, match=said):
        replace(filling, fields={"num_beams": 4, "num_return_sequences": 3})
    with pytest.raises(OptionsError, match=said):
        fill(None, str(bundle), num_return_sequences=3)


def test_more_actors_than_there_is_room_for(cluster, filling, source, tmp_path):
    from pointsman.ray import fill_files

    assert len([*fill_files([source], tmp_path / "out", filling, actors=3, cpus=3)]) == 5


def test_a_name_that_is_taken(fill, source, tmp_path):
    """Nothing was written under it, so that the next run may choose another."""
    with pytest.raises(TextError, match="has a column number already; choose another name with `filled`"):
        fill(source, filled="number")
    assert len(fill(source)) == 5


def test_a_bundle_that_cannot_be_loaded(cluster, filling, source, bundle, tmp_path):
    """An actor says so in one sentence, of the bundle and not of a row, and no row is skipped for it."""
    from pointsman.ray import fill_files

    nothing = replace(filling, bundle=str(tmp_path / "nothing"))
    with pytest.raises(BundleNotFoundError, match="is not a bundle"):
        fill_files([source], tmp_path / "out", nothing)
    shutil.copytree(bundle, tmp_path / "damaged")
    with (tmp_path / "damaged/variants/float32/weights.bin").open("rb+") as file:
        file.write(b"damaged")
    damaged = replace(filling, bundle=str(tmp_path / "damaged"), on_error="skip")
    with pytest.raises(BundleError) as raised:
        list(fill_files([source], tmp_path / "out", damaged))
    assert re.fullmatch(r"\S+/damaged is damaged: \S+/weights\.bin was changed .*", str(raised.value))
