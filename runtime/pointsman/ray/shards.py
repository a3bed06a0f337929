"""Files with a column of texts, filled by actors into shards; a run that was stopped goes on where it was."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet

from pointsman.bundle.writing import whole_file
from pointsman.decoding import DecodingFields, DecodingOptions
from pointsman.errors import OptionsError, TextError
from pointsman.infill import Infiller
from pointsman.ray.bundles import local_bundle
from pointsman.ray.resumable import made, missing, settle

_KINDS: Final = (".parquet", ".jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """How files are filled.

    Attributes:
        bundle: Its folder, which every machine must have, or a URL that fsspec knows.
        column: Where the texts are.
        filled: The column for the best fill; `<filled>_score` gets its score.
        variant: Which variant runs.
        threads: CPU threads of an actor; the engine's default where None.
        max_memory: Bytes of resident memory that an actor may have; see `SwitchModel.load`.
        batch_size: Texts at a time.
        rows: Of a file that make a shard.
        fields: Decoding options; samples follow from a row's number in its file.
    """

    bundle: str
    column: str = "text"
    filled: str = "filled"
    variant: str = "auto"
    threads: int | None = None
    max_memory: int | None = None
    batch_size: int = 32
    rows: int = 10_000
    fields: DecodingFields

    def written(self) -> dict[str, Any]:
        """What a later run must have in common with this one."""
        said = ("bundle", "column", "filled", "variant", "rows")
        return {**{name: getattr(self, name) for name in said}, "fields": dict(self.fields)}


@dataclass(frozen=True, slots=True)
class Shard:
    """Some rows of a file, and where they go.

    Attributes:
        source: The file.
        first: Number of the first row.
        target: The shard's own file.
    """

    source: Path
    first: int
    target: Path


def fill_files(
    sources: Sequence[str | Path],
    output: str | Path,
    filling: Filling,
    *,
    actors: int = 1,
    cpus: float = 1.0,
    gpus: float = 0.0,
) -> Iterator[Shard]:
    """Fill files, and give each shard when it is written.

    Args:
        sources: Parquet files, or `.jsonl` with an object a line, where every machine finds them.
        output: A folder, likewise; shards are Parquet or JSON lines as their file is. Those that are there stay.
        filling: How.
        actors: How many; each keeps its model, and one that dies is replaced and its shard begun again.
        cpus: That an actor takes of its machine.
        gpus: Likewise.

    Raises:
        TextError: A file is missing, of another kind, or lacks the column; or as `Infiller.infill`.
        OptionsError: The options cannot be.
        OutputError: The folder has shards of a run with other settings, or cannot be written.
    """
    DecodingOptions.over({}, filling.fields)
    paths, folder = [Path(source).absolute() for source in sources], Path(output).absolute()
    shards = [shard for path in _distinct(paths) for shard in _shards(path, folder, filling)]
    settle(folder, filling.written())
    return made(_Filler, [filling], missing(shards), actors=actors, cpus=cpus, gpus=gpus)


def _distinct(paths: Sequence[Path]) -> Sequence[Path]:
    stems = [path.stem for path in paths]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise OptionsError(f"two files are called {twice}; their shards would be, too")
    return paths


def _shards(path: Path, folder: Path, filling: Filling) -> Iterator[Shard]:
    if path.suffix not in _KINDS:
        raise TextError(f"{path} is neither {' nor '.join(_KINDS)}")
    if not path.is_file():
        raise TextError(f"{path} is not there; check the path")
    rows = pa.parquet.read_metadata(path).num_rows if path.suffix == ".parquet" else _lines(path)
    for number, first in enumerate(range(0, rows, filling.rows)):
        yield Shard(path, first, folder / f"{path.stem}-{number:05}{path.suffix}")


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


class _Filler:
    """An actor's model."""

    def __init__(self, filling: Filling) -> None:
        self._filling = filling
        self._infiller = Infiller.load(
            local_bundle(filling.bundle),
            variant=filling.variant,
            threads=filling.threads,
            max_memory=filling.max_memory,
        )

    def make(self, shard: Shard) -> Shard:
        """Fill a shard, whole or not at all."""
        table = _read(shard, self._filling)
        texts = table.column(self._filling.column).to_pylist()
        infiller, fields = self._infiller, self._filling.fields
        requests = [infiller.request(text, number=shard.first + row, **fields) for row, text in enumerate(texts)]
        best = [fills[0] for fills in infiller.fill_requests(requests, self._filling.batch_size)]
        name = self._filling.filled
        table = table.append_column(name, pa.array([fill.text for fill in best], pa.string()))
        table = table.append_column(f"{name}_score", pa.array([fill.score for fill in best], pa.float64()))
        _write(table, shard.target)
        return shard


def _read(shard: Shard, filling: Filling) -> "pa.Table":
    """The shard's rows."""
    read = _read_parquet if shard.source.suffix == ".parquet" else _read_lines
    table = read(shard.source, shard.first, filling.rows)
    if filling.column not in table.column_names:
        raise TextError(f"{shard.source} has no column {filling.column}; it has {', '.join(table.column_names)}")
    return table


def _read_parquet(path: Path, first: int, rows: int) -> "pa.Table":
    """Rows of a file, of which only the row groups are read that have any of them."""
    file = pa.parquet.ParquetFile(path)
    groups: list[int] = []
    before = start = 0
    for group in range(file.num_row_groups):
        after = before + file.metadata.row_group(group).num_rows
        if after > first and before < first + rows:
            start = start if groups else before
            groups.append(group)
        before = after
    return file.read_row_groups(groups).slice(first - start, rows)


def _read_lines(path: Path, first: int, rows: int) -> "pa.Table":
    with path.open(encoding="utf-8") as file:
        return pa.Table.from_pylist([json.loads(line) for line in islice(file, first, first + rows)])


def _write(table: "pa.Table", target: Path) -> None:
    with whole_file(target) as partial:
        if target.suffix == ".parquet":
            pa.parquet.write_table(table, partial)
        else:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
            partial.write_text("".join(lines), encoding="utf-8")
