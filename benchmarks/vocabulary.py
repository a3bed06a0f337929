"""A vocabulary of any size for synthetic checkpoints: a small trained unigram model, filled up with made-up words."""

import io
import json
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb

from pointsman.bundle.names import SPIECE

EXTRA_IDS = 100
SPARE_ROWS = 28  # that released checkpoints leave over: 32128 rows, 32100 ids
_SENTENCES = [
    f"{who} {does} {where}."
    for who in ("The pointsman", "A driver", "My sister", "Nobody")
    for does in ("waits", "quickly walks", "sits", "just looks for zebras")
    for where in ("by the box", "under the bridge", "in Xanten", "at every vivid signal", "on track five")
]


def write_vocabulary(folder: Path, rows: int) -> None:
    """Write `spiece.model` and `tokenizer_config.json` for an embedding of `rows` rows.

    Args:
        folder: of the checkpoint.
        rows: at least 192; the ids leave a few of them over, as in released checkpoints.
    """
    model = pb.ModelProto.FromString(_trained())  # type: ignore[attr-defined]  # made at import
    pieces = rows - EXTRA_IDS - SPARE_ROWS
    for number in range(pieces - len(model.pieces)):
        # Scores fall with the rank, as those of a trained unigram model do; the names are no words of any text.
        model.pieces.add(piece=f"▁pointsman{number}", score=-10.0 - number / 1000)
    (folder / SPIECE).write_bytes(model.SerializeToString())
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": EXTRA_IDS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _trained() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_SENTENCES),
        model_writer=model,
        vocab_size=48,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()
