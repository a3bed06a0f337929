"""Variants side by side on the same batches, decoder positions all at once, through Polygraphy's `Comparator`.

`Comparator.run(streaming=True)` gives one batch's outputs of all variants at a time; they are counted and forgotten
before the next batch is run, so memory does not grow with the number of documents.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from polygraphy.comparator import Comparator
from polygraphy.logger import G_LOGGER

from pointsman.errors import ParityError
from pointsman_calib.comparison.metrics import Array
from pointsman_calib.comparison.records import NonFinite
from pointsman_calib.comparison.runners import TeacherForcingRunner
from pointsman_calib.comparison.tallies import Outputs, PairTally, VariantTally
from pointsman_calib.corpus.batches import Batch


def tally_all(
    runners: Sequence[TeacherForcingRunner],
    batches: Callable[[], Iterable[Batch]],
    *,
    num_experts: int,
    progress: Callable[[int], object],
) -> tuple[list[VariantTally], list[PairTally]]:
    """Run all variants over all batches.

    Args:
        runners: the baseline's, then each candidate's.
        batches: the same anew at each call.
        num_experts: of a sparse layer.
        progress: told the number of documents after each batch.

    Returns:
        what was counted of every variant, and of every candidate beside the baseline.

    Raises:
        ParityError: the baseline's values are not finite.
        BundleError: the engine refuses a graph.
    """
    variants, pairs = [VariantTally(num_experts) for _ in runners], [PairTally() for _ in runners[1:]]
    for batch, (baseline, *others) in _outputs(runners, batches):
        if not variants[0].update(batch, baseline):
            raise ParityError(_not_finite(runners[0].name, variants[0].non_finite))
        for variant, pair, outputs in zip(variants[1:], pairs, others, strict=True):
            if variant.update(batch, outputs):
                pair.update(batch, baseline, outputs)
        progress(len(batch.labels))
    return variants, pairs


def _not_finite(name: str, tensors: tuple[NonFinite, ...]) -> str:
    where = ", ".join(f"{tensor.values} of {tensor.name}" for tensor in tensors)
    return f"the baseline {name} gives values that are not finite ({where}); compare with a float32 variant"


def _outputs(
    runners: Sequence[TeacherForcingRunner], batches: Callable[[], Iterable[Batch]]
) -> Iterator[tuple[Batch, list[Outputs]]]:
    """Each batch with what every runner makes of it."""
    stream = Comparator.run(list(runners), data_loader=map(feeds, batches()), streaming=True)
    # Polygraphy reports on stdout, where the result goes.
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), contextlib.closing(stream):
        for batch, results in zip(batches(), stream, strict=True):
            yield batch, [dict(iterations[0].items()) for _, iterations in results]


def feeds(batch: Batch) -> dict[str, Array]:
    """What `TeacherForcingRunner` takes of a batch."""
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "decoder_input_ids": batch.decoder_input_ids,
        "label_mask": batch.label_mask,
    }
