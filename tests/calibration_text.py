"""Text for tests that calibrate tiny bundles: C4 files that their vocabulary knows, and documents of random ids."""

import itertools
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from pointsman_calib.corpus.batches import Example
from pointsman_calib.corpus.text import Corpus

WINDOW = 128  # tokens; the tiny vocabulary has too few sentinels for 512
_WHO = ("The pointsman", "A driver", "My sister", "Nobody")
_DOES = ("waits", "quickly walks", "sits", "just looks for zebras")
_WHERE = ("by the box", "under the bridge", "in Xanten", "at every vivid signal")
_SENTENCES = [f"{who} {does} {where}." for who, does, where in itertools.product(_WHO, _DOES, _WHERE)]
TEXTS = [f"{_SENTENCES[n]} {_SENTENCES[(7 * n + 3) % 64]}" for n in range(48)]


def write_c4(path: Path, texts: Sequence[str] = TEXTS) -> Path:
    """Write a file in C4's form, not gzipped."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def random_corpus(documents: int = 24, *, seed: int = 0, tokens: int = 20, vocab_size: int = 128) -> Corpus:
    """Documents of random ids, every label one of a span."""
    generator = np.random.default_rng(seed)
    return Corpus([_example(generator, tokens, vocab_size) for _ in range(documents)], seed=seed, window=WINDOW)


def _example(generator: np.random.Generator, tokens: int, vocab_size: int) -> Example:
    inputs, targets = (generator.integers(2, vocab_size, size, np.int64) for size in (tokens, tokens // 2))
    return Example(sha256(inputs.tobytes()).hexdigest(), inputs, targets, np.ones(targets.size, np.bool_))
