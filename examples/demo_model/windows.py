"""Windows of text to train and to evaluate on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from corpus import (
    EOS,
    PAD,
    SENTINELS,
    Ids,
    Shape,
    Tokens,
    corrupt,
    encode_books,
    read_books,
    sentence_starts,
    split_books,
    train_vocabulary,
)

PIECES = 3968
FIRST_SENTINEL = PIECES + SENTINELS - 1  # T5: <extra_id_n> = pieces + 99 - n
DENSITY, MEAN_SPAN, WINDOW = 0.15, 3.0, 128  # as published; the evaluation uses exactly these


@dataclass
class Data:
    """Token streams of the training and of the held-out books, and where sentences start in the former."""

    train: Tokens
    held: Tokens
    starts: Ids

    def windows(self, rows: int, length: int, rng: np.random.Generator) -> Ids:
        """Training windows [rows, length]; half of them begin with a sentence, half anywhere."""
        at = rng.integers(0, len(self.train) - length, rows)
        snapped = self.starts[np.minimum(np.searchsorted(self.starts, at), len(self.starts) - 1)]
        snapped = np.minimum(snapped, len(self.train) - length)
        at = np.where(rng.random(rows) < 0.5, snapped, at)
        windows: Ids = self.train[at[:, None] + np.arange(length)].astype(np.int64)
        return windows


def load_data(corpus: Path, vocabulary: Path, cache: Path | None) -> Data:
    """Encode the corpus, training the vocabulary first if the file is missing; ``cache`` keeps the ids."""
    if cache is not None and vocabulary.exists() and (cache / "train.npy").exists():
        train, held = np.load(cache / "train.npy"), np.load(cache / "held.npy")
    else:
        train_books, held_books = split_books(read_books(corpus))
        if not vocabulary.exists():
            train_vocabulary(train_books, vocabulary, PIECES, 6_000_000, seed=1)
        train, held = encode_books(train_books, vocabulary), encode_books(held_books, vocabulary)
        if cache is not None:
            np.save(cache / "train.npy", train)
            np.save(cache / "held.npy", held)
    return Data(train, held, sentence_starts(train, vocabulary))


def held_out_batches(held: Tokens, windows: int, rows: int) -> list[tuple[Ids, Ids]]:
    """Evenly spaced held-out windows, corrupted with a fixed seed: always the same evaluation."""
    rng = np.random.default_rng(2024)
    at = np.linspace(0, len(held) - WINDOW, windows).astype(np.int64)
    text = held[at[:, None] + np.arange(WINDOW)].astype(np.int64)
    inputs, targets = corrupt(text, Shape.of(WINDOW, DENSITY, MEAN_SPAN), FIRST_SENTINEL, rng)
    return [(inputs[i : i + rows], targets[i : i + rows]) for i in range(0, windows, rows)]


def span_mask(targets: Tensor) -> Tensor:
    """True at hidden text tokens: sentinels, </s> and padding are not counted."""
    mask: Tensor = (targets < PIECES) & (targets != EOS) & (targets != PAD)
    return mask
