"""Work in shards, each a file that an actor makes; a run that was stopped goes on where it was."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import ray

from pointsman.bundle.writing import locked, one_sentence, whole_file
from pointsman.errors import DeviceError, OutputError, PointsmanError
from pointsman.ray.cluster import connect
from pointsman.wording import first_few

_SETTINGS: Final = "_settings.json"  # readers of folders of Parquet pass over what begins so
_FORMAT: Final = "format"
"""A setting that says what the others mean, where there is one."""
_BUNDLE: Final = "bundle"
_VARIANT: Final = "variant"
_SHOWN: Final = 60  # characters of a setting; what is longer, as a digest, tells nobody anything
_RETRIES: Final = 3  # of a shard whose actor died


class Shard(Protocol):
    """A part of the work."""

    @property
    def target(self) -> Path:
        """Its file, which is there once it is done."""


SomeShard = TypeVar("SomeShard", bound=Shard)


def settle(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write down how the folder's shards are made, or compare.

    Args:
        folder: Where shards go; it is made where it is not there.
        settings: As JSON has them.

    Raises:
        OutputError: Those that are there were made otherwise, or it cannot be told how; another run is making some; or
            the folder cannot be written. Where none is there yet, since a first run was refused, what it had written
            down is replaced.
    """
    path, said = folder / _SETTINGS, json.dumps(settings, indent=1)
    with one_sentence(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder):
            if not path.exists() or not _begun(folder):
                with whole_file(path) as partial:
                    partial.write_text(said, encoding="utf-8")
    was, now = settled(folder), json.loads(said)
    if not was or was.get(_FORMAT) != now.get(_FORMAT):
        raise OutputError(
            f"{path} is damaged or was written by another release, and does not say how the shards beside it were "
            "made; choose another folder"
        )
    if was != now:
        raise OutputError(
            f"{folder} was begun with {_differing(was, now)}, and this run has {_differing(now, was)}; give what it "
            "was begun with, or choose another folder"
        )


def _differing(these: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """What of some settings is not so in others, in words."""
    found, known = _flat(these), _flat(others)
    names = sorted(name for name in {**found, **known} if found.get(name) != known.get(name))
    if _VARIANT in names and _BUNDLE in names:
        names.remove(_BUNDLE)  # its digest is of the variant's files
    return first_few([_said(name, found.get(name)) for name in names], limit=6)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, with those that are groups of others in their place."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return flat


def _said(name: str, value: object) -> str:
    if value is None or value is False:
        return f"no `{name}`"
    if name == _BUNDLE:
        return f"a bundle of content {value}"
    if len(str(value)) > _SHOWN:
        return f"{name} {str(value)[:_SHOWN]}"
    return f"`{name}={value!r}`"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only run that makes shards of a folder, where the file system has locks.

    Raises:
        OutputError: Another is at it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except BlockingIOError:
            raise OutputError(f"another run is writing {folder}; wait for it, or choose another folder") from None
        except OSError:
            pass  # no locks here
        yield


def _begun(folder: Path) -> bool:
    """Whether there is more in a folder than settings, and what a killed process has left of them."""
    return any(path.name != _SETTINGS and not path.name.startswith(".") for path in folder.iterdir())


def settled(folder: Path) -> dict[str, Any]:
    """What `settle` has written there; nothing where it has not, or where that is damaged, which `settle` then says."""
    try:
        written = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return written if isinstance(written, dict) else {}


def missing(shards: Sequence[SomeShard]) -> list[SomeShard]:
    """Those that are still to be made."""
    return [shard for shard in shards if not shard.target.exists()]


def made(
    worker: type, arguments: Sequence[object], shards: Sequence[SomeShard], *, actors: int, cpus: float, gpus: float
) -> Iterator[SomeShard]:
    """Make shards, and give each when it is written, in whatever order.

    Args:
        worker: A class whose `make` writes a shard's file, whole or not at all, and returns the shard. What may be
            refused belongs there: what an actor's constructor raises ends as an actor that died.
        arguments: To make one of.
        shards: What is to be made.
        actors: How many at most; those that the cluster has no room for wait until it has. One that dies is replaced
            and its shard begun again.
        cpus: That an actor takes of its machine.
        gpus: Likewise.

    Raises:
        PointsmanError: What `make` raises.
        OutputError: Another run is writing the folder.
        DeviceError: Ray does not start, where it does not run yet; or actors die again and again.
    """
    if not shards:
        return  # Ray need not even run
    connect(None)
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=_RETRIES)(worker)
    with alone(shards[0].target.parent):
        workers = [remote.remote(*arguments) for _ in range(min(actors, len(shards)))]
        try:
            yield from _as_they_come(workers, shards)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, PointsmanError):
                raise error.cause from None  # in its own words, without the trace of another process
            raise
        except ray.exceptions.RayActorError as error:
            raise DeviceError(
                f"an actor died {_RETRIES + 1} times at the same shard, as where memory does not suffice; use fewer "
                "`actors`, or smaller shards"
            ) from error


def _as_they_come(workers: Sequence[Any], shards: Sequence[SomeShard]) -> Iterator[SomeShard]:
    """Let actors make shards, each its next when it has made one.

    None is given to an actor that still waits for room in the cluster: it may do so until the others, which have all
    of it, are given up.
    """
    starting = {worker.__ray_ready__.remote(): worker for worker in workers}
    working: dict[Any, Any] = {}
    left, done = iter(shards), 0
    while done < len(shards):
        (first,), _ = ray.wait([*working, *starting], num_returns=1)
        is_shard = first in working
        worker, outcome = (working if is_shard else starting).pop(first), ray.get(first)
        if (shard := next(left, None)) is not None:
            working[worker.make.remote(shard)] = worker
        if is_shard:
            done += 1
            yield outcome
