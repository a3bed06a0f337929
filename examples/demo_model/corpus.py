"""Prose corpus: books, vocabulary, token stream and T5 span corruption.

Span corruption follows T5 (Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 3.1.4):
15 % of the tokens are cut out in spans of mean length 3, each replaced by one sentinel; the target lists the
sentinels with the tokens they hide, then one closing sentinel and ``</s>``.
"""

from __future__ import annotations

import io
import lzma
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sentencepiece as spm

PAD, EOS, UNK = 0, 1, 2
SENTINELS = 100
HELD_OUT_EVERY, HELD_OUT_FIRST = 24, 11

Tokens = npt.NDArray[np.uint16]
Ids = npt.NDArray[np.int64]


def read_books(path: Path) -> list[str]:
    """Read the ``.txt`` or ``.txt.xz`` corpus; two blank lines separate the books."""
    packed = path.read_bytes()
    raw = lzma.decompress(packed) if path.suffix == ".xz" else packed
    return [book for book in raw.decode("utf-8").split("\n\n\n") if book.strip()]


def split_books(books: list[str]) -> tuple[list[str], list[str]]:
    """Hold out every 24th book whole, so that no sentence of a held-out book is ever trained on."""
    held = [b for i, b in enumerate(books) if i % HELD_OUT_EVERY == HELD_OUT_FIRST]
    train = [b for i, b in enumerate(books) if i % HELD_OUT_EVERY != HELD_OUT_FIRST]
    return train, held


def paragraphs(book: str) -> list[str]:
    """Paragraphs of one book without Markdown emphasis marks and heading signs, white space collapsed."""
    plain = re.sub(r"[*_#]+", "", book)
    found = (" ".join(part.split()) for part in re.split(r"\n\s*\n", plain))
    return [part for part in found if part]


def train_vocabulary(books: list[str], target: Path, pieces: int, sample_bytes: int, seed: int) -> None:
    """Train a T5-like unigram vocabulary (pad 0, </s> 1, unk 2, no bos, nmt_nfkc) on a sample of paragraphs."""
    rng = np.random.default_rng(seed)
    everything = [part for book in books for part in paragraphs(book)]
    sample: list[str] = []
    size = 0
    for index in rng.permutation(len(everything)):
        sample.append(everything[index])
        size += len(everything[index])
        if size >= sample_bytes:
            break
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(sample),
        model_writer=model,
        model_type="unigram",
        vocab_size=pieces,
        normalization_rule_name="nmt_nfkc",
        character_coverage=0.9995,
        pad_id=PAD,
        eos_id=EOS,
        unk_id=UNK,
        bos_id=-1,
        byte_fallback=False,
        max_sentence_length=20000,
        num_threads=2,
        minloglevel=1,
    )
    target.write_bytes(model.getvalue())


def encode_books(books: list[str], vocabulary: Path) -> Tokens:
    """One stream of token ids, books in order, no separator tokens."""
    processor = spm.SentencePieceProcessor(model_file=str(vocabulary))
    parts: list[Tokens] = []
    for book in books:
        encoded = processor.encode(paragraphs(book), num_threads=2)
        parts.extend(np.asarray(ids, dtype=np.uint16) for ids in encoded)
    return np.concatenate(parts)


def sentence_starts(tokens: Tokens, vocabulary: Path) -> Ids:
    """Positions that follow a piece ending a sentence: windows from here look like a user's sentence."""
    processor = spm.SentencePieceProcessor(model_file=str(vocabulary))
    ends = np.zeros(1 << 16, dtype=bool)
    for piece in range(processor.get_piece_size()):
        ends[piece] = processor.id_to_piece(piece).rstrip("\"'”’)").endswith((".", "!", "?"))
    quote = np.zeros(1 << 16, dtype=bool)
    for piece in range(processor.get_piece_size()):
        text = processor.id_to_piece(piece)
        quote[piece] = text in ('"', "”", "’", '."', ".”")
    after = np.flatnonzero(ends[tokens[:-1]] & ~quote[tokens[1:]]) + 1
    return after.astype(np.int64)


@dataclass(frozen=True)
class Shape:
    """Sizes of span corruption for one window length; every window of that length gives equal shapes."""

    window: int
    noise: int
    spans: int

    @classmethod
    def of(cls, window: int, density: float, mean_span: float) -> Shape:
        """Shape for one window length, share of hidden tokens and mean length of a hidden span."""
        noise = min(max(round(window * density), 1), window - 1)
        return cls(window, noise, max(round(noise / mean_span), 1))

    @property
    def inputs(self) -> int:
        """Encoder length: kept tokens, one sentinel a span, </s>."""
        return self.window - self.noise + self.spans + 1

    @property
    def targets(self) -> int:
        """Decoder length: hidden tokens, one sentinel a span, closing sentinel, </s>."""
        return self.noise + self.spans + 2


def _segments(rng: np.random.Generator, rows: int, total: int, parts: int) -> Ids:
    """Random compositions [rows, parts] of ``total`` into ``parts`` positive lengths (T5's segmentation)."""
    cuts = np.argsort(rng.random((rows, total - 1)), axis=1)[:, : parts - 1] + 1
    edges = np.concatenate([np.zeros((rows, 1), np.int64), np.sort(cuts, axis=1), np.full((rows, 1), total)], axis=1)
    return np.diff(edges, axis=1)


def _with_sentinels(tokens: Ids, hidden: npt.NDArray[np.bool_], first_sentinel: int) -> Ids:
    """Replace every run of hidden tokens by one sentinel; rows must hide equally many tokens and runs."""
    before = np.pad(hidden, ((0, 0), (1, 0)))[:, :-1]
    starts = hidden & ~before
    marked = np.where(starts, first_sentinel + 1 - np.cumsum(starts, axis=1), tokens)
    selected: Ids = marked[~hidden | starts].reshape(len(tokens), -1)
    return selected


def corrupt(windows: Ids, shape: Shape, first_sentinel: int, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Span-corrupt windows [rows, window] into encoder ids [rows, inputs] and targets [rows, targets].

    As in T5 a window starts with kept tokens, and kept and hidden runs alternate.  Unlike T5, whose windows
    always end with a hidden run, kept tokens may follow the last one, as in a sentence typed by a user.
    ``first_sentinel`` is the id of ``<extra_id_0>``; later sentinels count down.
    """
    rows = len(windows)
    ends = np.full((rows, 1), EOS, dtype=np.int64)
    # </s> counts as a kept token: the last kept run is then never empty, and its sentinel closes the target.
    tokens = np.concatenate([windows, ends], axis=1)
    runs = np.zeros((rows, 2 * shape.spans + 1), dtype=np.int64)
    runs[:, 0::2] = _segments(rng, rows, shape.window - shape.noise + 1, shape.spans + 1)
    runs[:, 1::2] = _segments(rng, rows, shape.noise, shape.spans)
    run_of = (np.arange(shape.window + 1)[None, :, None] >= np.cumsum(runs, axis=1)[:, None, :]).sum(axis=2)
    hidden = run_of % 2 == 1
    inputs = _with_sentinels(tokens, hidden, first_sentinel)
    targets = np.concatenate([_with_sentinels(tokens, ~hidden, first_sentinel), ends], axis=1)
    return inputs, targets
