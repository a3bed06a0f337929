"""Files with a column of texts, filled by actors into shards; a run that was stopped goes on where it was."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from pointsman.errors import OptionsError, OutputError
from pointsman.ray.resumable import made
from pointsman.ray.rows import check_source, parts_of, read_rows
from pointsman.ray.settings import agreed
from pointsman.ray.shards import Filler, Filling, Shard
from pointsman.ray.sources import State, bad_rows_of, forget, state_of
from pointsman.wording import first_few

OnChange = Literal["fail", "redo"]


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done of some files.

    Attributes:
        filling: How, with the variant that runs, and with its seed where texts are sampled.
        content: What the bundle holds, as `content_of` says it.
        shards: Those that are to be made.
        kept: How many are there already.
        bad: Rows of these that could not be filled.
    """

    filling: Filling
    content: str
    shards: Sequence[Shard]
    kept: int
    bad: int

    def done(self, *, actors: int = 1, cpus: float = 1.0, gpus: float = 0.0) -> Iterator[Shard]:
        """Do it, and give each shard when it is written; arguments and errors are those of `fill_files`."""
        bundle = self.filling.bundle
        everywhere = bundle if "://" in bundle else str(Path(bundle).absolute())  # an actor has a folder of its own
        filling = replace(self.filling, bundle=everywhere)
        return made(Filler, [filling, self.content], self.shards, actors=actors, cpus=cpus, gpus=gpus)


def fill_files(
    sources: Sequence[str | Path],
    output: str | Path,
    filling: Filling,
    *,
    on_change: OnChange = "fail",
    actors: int = 1,
    cpus: float = 1.0,
    gpus: float = 0.0,
) -> Iterator[Shard]:
    """Fill files, and give each shard when it is written.

    Args:
        sources: Parquet files, or `.jsonl` with an object a line, where every machine finds them.
        output: A folder, likewise; shards are Parquet or JSON lines as their file is. Those that are there stay, if
            their rows are what they were. A last shard whose file has grown is made again.
        filling: How.
        on_change: What rows that have changed under a shard do: end the run, or have the shard made again.
        actors: How many; each keeps its model, and one that dies is replaced and its shard begun again.
        cpus: That an actor takes of its machine.
        gpus: Likewise.

    Raises:
        TextError: A file is missing, of another kind, cannot be read, or lacks the column; or a row cannot be filled.
        OptionsError: The options cannot be.
        OutputError: The folder has shards of a run with other settings or of other rows, or cannot be written.
        BundleError: There is no bundle, or a damaged one; or another error, as `Infiller.load`.
    """
    return plan_files(sources, output, filling, on_change=on_change).done(actors=actors, cpus=cpus, gpus=gpus)


def plan_files(
    sources: Sequence[str | Path], output: str | Path, filling: Filling, *, on_change: OnChange = "fail"
) -> Work:
    """What `fill_files` has to do; Ray is not needed yet."""
    paths, folder = [Path(source).absolute() for source in sources], Path(output).absolute()
    for path in _distinct(paths):
        check_source(path, filling.column)
    filling, content = agreed(filling, folder)
    left: list[Shard] = []
    targets: list[Path] = []
    for path in paths:
        shards = list(_shards(path, folder, filling.rows))
        left += _left(path, folder, shards, skip=filling.on_error == "skip", redo=on_change == "redo")
        targets += [shard.target for shard in shards]
    kept = {*targets} - {shard.target for shard in left}
    return Work(filling, content, left, len(kept), sum(map(bad_rows_of, kept)))


def _distinct(paths: Sequence[Path]) -> Sequence[Path]:
    stems = [path.stem for path in paths]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise OptionsError(f"two files are called {twice}; their shards would be, too; rename one")
    return paths


def _shards(path: Path, folder: Path, rows: int) -> Iterator[Shard]:
    for number, part in enumerate(parts_of(path, rows)):
        yield Shard(part, folder / f"{path.stem}-{number:05}{path.suffix}")


def _left(path: Path, folder: Path, shards: Sequence[Shard], *, skip: bool, redo: bool) -> Iterator[Shard]:
    """Those of a file's shards that are to be made.

    Raises:
        OutputError: Rows have changed, and shards are not to be made again.
    """
    beyond = _beyond(path, folder, shards)
    states = [state_of(shard.target, shard.part.rows, partial(read_rows, shard.part), skip=skip) for shard in shards]
    changed = [shard.target for shard, state in zip(shards, states, strict=True) if state is State.CHANGED]
    if (changed or beyond) and not redo:
        raise OutputError(
            f"{path} has changed since {first_few(target.name for target in [*changed, *beyond])} of {folder} had its "
            "rows; choose another folder, or have such shards made again with `on_change='redo'`"
        )
    for target in beyond:
        forget(target)
    return (shard for shard, state in zip(shards, states, strict=True) if state is not State.MADE)


def _beyond(path: Path, folder: Path, shards: Sequence[Shard]) -> list[Path]:
    """Shards of rows that the file no longer has."""
    name = re.compile(rf"{re.escape(path.stem)}-\d{{5,}}{re.escape(path.suffix)}")
    wanted = {shard.target for shard in shards}
    return sorted(target for target in folder.iterdir() if name.fullmatch(target.name) and target not in wanted)
