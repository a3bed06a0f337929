"""A SentencePiece vocabulary of T5's kind, trained on the spot, for tests that must not need files."""

import io
import itertools
import tempfile
from pathlib import Path
from typing import Any

import sentencepiece

from pointsman.text.tokenizer import Tokenizer

SUBJECTS = ("The man", "A cute dog", "My neighbour's cat", "Nobody", "The unbelievable pointsman")
VERBS = ("walks", "walked", "is walking", "sleeps", "will sleep", "switches tracks")
PLACES = ("in the park", "under a bridge", "at 10:45", "near café Zoë", "on a railway (again)", "oooo so long!!!!")
ENDS = (".", "!", "?", "; then home.", ', "of course".')
T5: dict[str, Any] = {
    "model_type": "unigram",
    "vocab_size": 200,
    "hard_vocab_limit": False,
    "normalization_rule_name": "nmt_nfkc",
    "pad_id": 0,
    "eos_id": 1,
    "unk_id": 2,
    "bos_id": -1,
}


def train_tiny_vocabulary(**options: Any) -> bytes:
    """Return a serialized unigram model with T5's special ids and normalisation; the same bytes every time.

    Args:
        options: Of SentencePiece's trainer.
    """
    sentences = (f"{s} {v} {p}{e}" for s, v, p, e in itertools.product(SUBJECTS, VERBS, PLACES, ENDS))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences, model_writer=model, num_threads=1, minloglevel=2, **(T5 | options)
    )
    return model.getvalue()


def write_tiny_vocabulary(folder: Path, **options: Any) -> Path:
    """Write ``spiece.model`` into ``folder`` and return its path."""
    path = folder / "spiece.model"
    path.write_bytes(train_tiny_vocabulary(**options))
    return path


def tiny_tokenizer(extra_ids: int = 100) -> Tokenizer:
    """The tokenizer of the model that `train_tiny_vocabulary` makes by default."""
    with tempfile.TemporaryDirectory() as folder:
        return Tokenizer.load(write_tiny_vocabulary(Path(folder)), extra_ids=extra_ids)
