"""Each candidate counted beside the baseline: what of a comparison is a sum over documents."""

from collections.abc import Callable
from dataclasses import dataclass

from pointsman.backends.onnxruntime.session import Device
from pointsman_calib.comparison.counts import Counts
from pointsman_calib.comparison.measuring.teacher_forcing import Counted, Reader, count_pair, cuts_of
from pointsman_calib.comparison.subject import Subject
from pointsman_calib.corpus.text import Corpus
from pointsman_calib.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Which variants read which documents, and how.

    Attributes:
        subject: the variants.
        corpus: the documents.
        layers: whether the residual stream after each block is compared too.
        batch_size: documents run together.
        device: where variants run.
        threads: of the CPU; one for each core that the process may use where None.
    """

    subject: Subject
    corpus: Corpus
    layers: bool
    batch_size: int
    device: Device
    threads: int | None = None


Counter = Callable[[Reading], Counts]
"""Who counts; on processors of one kind all give the same, to the last bit."""


def count(reading: Reading) -> Counts:
    """Count in this process.

    Raises:
        BundleError: the engine refuses a graph.
        ParityError: the baseline's values are not finite.
    """
    return {name: _pair(reading, name) for name in reading.subject.candidates}


def _pair(reading: Reading, candidate: str) -> Counted:
    """Run a candidate beside the baseline."""
    subject, corpus, architecture = reading.subject, reading.corpus, reading.subject.manifest.architecture
    pair = {name: subject.variants[name] for name in (subject.baseline, candidate)}
    cuts = cuts_of(architecture, pair.values())
    baseline, beside = (
        Reader(
            subject.bundle,
            name,
            variant,
            architecture,
            lambda: corpus.batches(architecture, reading.batch_size),
            cuts,
            reading.device,
            reading.threads,
        )
        for name, variant in pair.items()
    )
    with Progress(candidate, baseline.steps * len(corpus.examples)) as shown:
        return count_pair(
            baseline, beside, num_experts=architecture.num_experts, layers=reading.layers, progress=shown.update
        )
