"""Text for tests that run tiny bundles: token ids that need no vocabulary."""

from collections.abc import Iterable, Sequence
from hashlib import sha256

import numpy as np

from pointsman_calib.corpus.batches import Example
from pointsman_calib.corpus.text import Corpus
from pointsman_calib.settle import Limits

LIMITLESS = Limits(max_loss_increase=1000, min_agreement=0)
"""For models of random weights, whose tokens any rounding changes."""


def example(sources: Sequence[int], targets: Sequence[int]) -> Example:
    """A document of these ids."""
    ids = np.array(sources, np.int64), np.array(targets, np.int64)
    digest = sha256(b"".join(array.tobytes() for array in ids)).hexdigest()
    return Example(digest, *ids, span_mask=np.ones(len(targets), bool))


def random_examples(seed: int, lengths: Iterable[tuple[int, int]]) -> list[Example]:
    """Documents of these source and target lengths."""
    generator = np.random.default_rng(seed)
    return [
        example(*(generator.integers(2, 128, length).tolist() for length in lengths_of_one))
        for lengths_of_one in lengths
    ]


def corpus(examples: Sequence[Example]) -> Corpus:
    """A corpus of these."""
    return Corpus(examples, seed=0, window=64)


class Interrupted(list[Example]):
    """Documents of which those from number `stop` on are never reached."""

    def __init__(self, examples: Sequence[Example], stop: int) -> None:
        super().__init__(examples)
        self.stop = stop

    def __getitem__(self, index):
        if index.stop > self.stop:
            raise KeyboardInterrupt
        return super().__getitem__(index)
