"""Text for tests: sentences that the tiny vocabulary knows, ids that need none, and spans put back in their places."""

import itertools
import json
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from pointsman.text.tokenizer import Tokenizer
from pointsman_calib.corpus.batches import Example
from pointsman_calib.corpus.corruption import Corruption
from pointsman_calib.corpus.text import Corpus
from pointsman_calib.settle import Limits

WINDOW = 128  # tokens; the tiny vocabulary has too few sentinels for 512
_WHO = ("The pointsman", "A driver", "My sister", "Nobody")
_DOES = ("waits", "quickly walks", "sits", "just looks for zebras")
_WHERE = ("by the box", "under the bridge", "in Xanten", "at every vivid signal")
SENTENCES = [f"{who} {does} {where}." for who, does, where in itertools.product(_WHO, _DOES, _WHERE)]
LIMITLESS = Limits(max_loss_increase=1000, min_agreement=0)
"""For models of random weights, whose tokens any rounding changes."""


def write_c4(path: Path, texts: Iterable[str] = ()) -> Path:
    """Write a file in C4's form, not gzipped: 48 documents of two sentences where no texts are given."""
    records = texts or (f"{SENTENCES[n]} {SENTENCES[(7 * n + 3) % 64]}" for n in range(48))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in records), encoding="utf-8")
    return path


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


def restored(corrupted: Corruption | Example, tokenizer: Tokenizer) -> list[int]:
    """A text's ids: what is left of them, with the spans back in their places."""
    inputs, targets = corrupted.inputs.tolist(), corrupted.targets.tolist()  # both end in `</s>`
    spans: dict[int, list[int]] = {}
    for token in targets[:-1]:
        if token in tokenizer.sentinel_ids:
            spans[token] = []
        else:
            spans[list(spans)[-1]].append(token)
    return [token for left in inputs[:-1] for token in spans.get(left, [left])]


class Interrupted(list[Example]):
    """Documents of which those from number `stop` on are never reached."""

    def __init__(self, examples: Sequence[Example], stop: int) -> None:
        super().__init__(examples)
        self.stop = stop

    def __getitem__(self, index):
        if index.stop > self.stop:
            raise KeyboardInterrupt
        return super().__getitem__(index)
