"""What of a comparison is a sum over documents, counted by actors in shards; a stopped run goes on where it was."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pointsman.bundle.manifest import installed_versions
from pointsman.errors import BundleError, OptionsError
from pointsman.ray.cluster import connect
from pointsman.ray.resumable import made, missing, settle
from pointsman_calib.comparison.counting import Reading, count
from pointsman_calib.comparison.counts import PART, Counts, added_up, read_counts, write_counts
from pointsman_calib.comparison.subject import open_subject
from pointsman_calib.corpus.batches import Example
from pointsman_calib.graphs.pieces import open_device
from pointsman_calib.progress import Progress

_PACKAGES: Final = ("pointsman", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """Actors of Ray that count shards of the documents: a `counter` for `compare`.

    The figures are those of a comparison without Ray, on processors of one kind to the last bit, whatever the number of
    actors and shards. Actors load variants as such a comparison does, a piece at a time, and take no more memory.

    Attributes:
        folder: where shards go, a JSON file each, which every machine must find; those that are there stay.
        documents_per_shard: a multiple of the documents that are run together.
        actors: how many; one that dies is replaced and its shard begun again.
        threads: of the CPU, of an actor; one for each core that the process may use where None.
        address: of a cluster; one of this machine where None. Where Ray runs already, that one is used.
    """

    folder: str | Path
    documents_per_shard: int = PART
    actors: int = 1
    threads: int | None = None
    address: str | None = None

    def __call__(self, reading: Reading) -> Counts:
        """Make the shards that are missing, and add all up.

        Raises:
            OptionsError: a shard does not end where a batch does.
            OutputError: the folder has shards of a comparison with other settings, a damaged one, or cannot be written.
            BundleError: a machine has another bundle, or the engine refuses a graph.
            ParityError: the baseline's values are not finite.
            DeviceError: Ray does not start, or there is no cluster at the address; or actors die again and again.
        """
        self._check(reading.batch_size)
        folder = Path(self.folder).absolute()
        settle(folder, self._settings(reading))
        shards = list(self._cut(reading.corpus.examples, folder))
        self._make(replace(reading, threads=self.threads), shards)
        return added_up(read_counts(shard.target) for shard in shards)

    def _check(self, batch_size: int) -> None:
        """Documents must be run together with the same others as without shards: what is beside them is rounded in."""
        documents = self.documents_per_shard
        if documents < 1 or documents % batch_size:
            raise OptionsError(
                f"documents_per_shard is {documents} and documents are run in batches of {batch_size}; "
                "give a multiple of that"
            )

    def _settings(self, reading: Reading) -> dict[str, Any]:
        """What a later run must have in common with this one."""
        variants = reading.subject.variants
        return {
            "variants": {name: [file.sha256 for file in variant.files] for name, variant in variants.items()},
            "documents": _fingerprint(reading.corpus.examples),
            "documents_per_shard": self.documents_per_shard,
            "batch_size": reading.batch_size,
            "layers": reading.layers,
            "device": reading.device,
            "versions": installed_versions(_PACKAGES),
        }

    def _cut(self, examples: Sequence[Example], folder: Path) -> Iterator["Shard"]:
        for number, first in enumerate(range(0, len(examples), self.documents_per_shard)):
            part = examples[first : first + self.documents_per_shard]
            yield Shard(part, folder / f"{number:05}.json")

    def _make(self, reading: Reading, shards: Sequence["Shard"]) -> None:
        wanted, total = missing(shards), len(reading.corpus.examples)
        if not wanted:
            return
        connect(self.address)
        subject = replace(reading.subject, bundle=reading.subject.bundle.absolute())
        unread = replace(reading, subject=subject, corpus=replace(reading.corpus, examples=()))
        cpus, gpus = float(self.threads or 1), float(reading.device == "cuda")
        left = sum(len(shard.examples) for shard in wanted)
        with Progress("comparing", total, done=total - left) as shown:
            for shard in made(_Worker, [unread], wanted, actors=self.actors, cpus=cpus, gpus=gpus):
                shown.update(len(shard.examples))


@dataclass(frozen=True, slots=True)
class Shard:
    """Some of the documents, and the file for what is counted of them.

    Attributes:
        examples: the documents.
        target: the file.
    """

    examples: Sequence[Example]
    target: Path


class _Worker:
    """An actor, which verifies its machine's bundle once."""

    def __init__(self, reading: Reading) -> None:
        self._unread = reading

    def make(self, shard: Shard) -> Shard:
        """Count a shard's documents."""
        corpus = replace(self._reading.corpus, examples=shard.examples)
        write_counts(shard.target, count(replace(self._reading, corpus=corpus)))
        return shard

    @cached_property
    def _reading(self) -> Reading:
        """Checked here and not when the actor is made: what that raises reaches nobody."""
        subject = self._unread.subject
        open_device(self._unread.device)
        if open_subject(subject.bundle, subject.baseline, subject.candidates) != subject:
            raise BundleError(f"a machine has another bundle at {subject.bundle}; copy it there again")
        return self._unread


def _fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 of the documents as variants read them, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.inputs.tobytes())
        digest.update(example.targets.tobytes())
    return digest.hexdigest()
