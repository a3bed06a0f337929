"""Documents to padded batches of span-corrupted text, the same for a seed however they are batched.

The protocol is that of QMoE (Frantar & Alistarh 2023, arXiv:2310.16795): documents in the corpus's order, those
longer than the window skipped, which is 568 tokens for 512 inputs. One difference: there ``</s>`` counts as a token of
the text and is always in the last span; here, as in T5's own pretraining, it ends the inputs and the targets.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from pointsman.bundle import Role
from pointsman.errors import CorpusError, OptionsError
from pointsman.text.tokenizer import Tokenizer
from pointsman.wording import counted
from pointsman_calib.corpus import corruption
from pointsman_calib.corpus.c4 import Document

_Item = TypeVar("_Item", np.int64, np.bool_)


@dataclass(frozen=True, slots=True)
class Example:
    """One document, corrupted.

    Attributes:
        document_sha256: of the whole document's text, also where it was cut.
        inputs: int64 ``[source]``, ends in ``</s>``.
        targets: int64 ``[target]``: spans, a closing sentinel, ``</s>``.
        span_mask: bool ``[target]``: the target is a token of a span.
    """

    document_sha256: str
    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    span_mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples side by side, padded on the right.

    Attributes:
        input_ids: int64 ``[batch, source]``.
        attention_mask: int64 ``[batch, source]``, 1 where there is a token, 0 where there is padding.
        decoder_input_ids: int64 ``[batch, target]``: the start token, then the labels shifted by one.
        labels: int64 ``[batch, target]``.
        label_mask: bool ``[batch, target]``: there is a label and no padding.
        span_mask: bool ``[batch, target]``: the label is a token of a span, neither sentinel nor ``</s>``.
        places: int64 ``[batch]``: the place of each among all that were batched.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    decoder_input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    label_mask: NDArray[np.bool_]
    span_mask: NDArray[np.bool_]
    places: NDArray[np.int64]

    def tokens(self, role: Role) -> NDArray[np.bool_]:
        """Where a graph has a token and no padding, ``[batch, source]`` or ``[batch, target]``."""
        return self.attention_mask.astype(bool) if role == "encoder" else self.label_mask


def examples(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    seed: int,
    window: int = 512,
    too_long: Literal["skip", "cut"] = "skip",
    limit: int | None = None,
) -> Iterator[Example]:
    """Corrupt documents one after the other; a text that comes again is passed over.

    A document's spans depend on the seed and its text alone: not on its place, the other documents, or the batches.
    Documents of fewer than two tokens have nothing to cut out, and those that spell special tokens (``</s>``,
    ``<extra_id_0>``) would look as if they had sentinels; both are passed over.

    Args:
        documents: read only as far as needed.
        tokenizer: the model's.
        seed: of the spans, 0 or more.
        window: the most encoder inputs, ``</s>`` included; 512 takes texts of up to 568 tokens.
        too_long: what becomes of longer documents: "skip" them, or "cut" their end off.
        limit: the most examples; None takes all.

    Raises:
        OptionsError: an option is out of range, or the window has more spans than the vocabulary sentinels.
        CorpusError: at the end, if no document could be used.
    """
    if seed < 0:
        raise OptionsError(f"seed is {seed}: give 0 or more")
    if limit is not None and limit < 1:
        raise OptionsError(f"documents is {limit}: give the number to use, 1 or more")
    if too_long not in ("skip", "cut"):
        raise OptionsError(f'too_long is {too_long!r}: give "skip" or "cut"')
    longest = corruption.longest_text(window)
    corruption.check_sentinels(longest, tokenizer)
    return _examples(documents, tokenizer, seed, longest=longest, cut=too_long == "cut", limit=limit)


def batches(examples: Iterable[Example], *, batch_size: int, pad_id: int, decoder_start_id: int) -> Iterator[Batch]:
    """Batch examples in order; the last batch may be smaller.

    Args:
        examples: read one batch at a time.
        batch_size: rows of a batch.
        pad_id: fills inputs, decoder inputs and labels.
        decoder_start_id: the first decoder input, 0 for T5 and Switch.

    Raises:
        OptionsError: ``batch_size`` is less than 1.
    """
    if batch_size < 1:
        raise OptionsError(f"batch_size is {batch_size}: give 1 or more")
    remaining = enumerate(examples)
    rows = iter(lambda: list(itertools.islice(remaining, batch_size)), [])
    return (_batch(batch, pad_id, decoder_start_id) for batch in rows)


def batches_by_length(
    examples: Sequence[Example], *, most_tokens: int, pad_id: int, decoder_start_id: int
) -> Iterator[Batch]:
    """Batch examples of similar length together, the longest first, so that little is padded.

    Args:
        examples: all of them.
        most_tokens: of a batch's inputs, padding included, unless a single example has more. Of targets, a quarter as
            many, which is about their share of long texts: each has a row of logits.
        pad_id: as for `batches`.
        decoder_start_id: as for `batches`.
    """
    order = sorted(enumerate(examples), key=lambda item: (-item[1].inputs.size, -item[1].targets.size, item[0]))
    rows: list[tuple[int, Example]] = []
    longest = 0
    for place, example in order:
        length = max(example.inputs.size, 4 * example.targets.size)
        longest = max(longest, length)
        if rows and longest * (len(rows) + 1) > most_tokens:
            yield _batch(rows, pad_id, decoder_start_id)
            rows, longest = [], length
        rows.append((place, example))
    if rows:
        yield _batch(rows, pad_id, decoder_start_id)


def _examples(
    documents: Iterable[Document], tokenizer: Tokenizer, seed: int, *, longest: int, cut: bool, limit: int | None
) -> Iterator[Example]:
    read = used = skipped = 0
    seen = set[str]()  # what is taken again says nothing new, and would look as if it did
    for document in documents:
        if (sha256 := document.sha256) in seen:
            continue
        seen.add(sha256)
        read += 1
        ids = np.array(tokenizer.encode(document.text, add_eos=False), np.int64)
        if ids.size > longest and not cut:
            skipped += 1
            continue
        example = _example(sha256, ids[:longest], tokenizer, seed)
        if example is not None:
            yield example
            used += 1
            if used == limit:
                return
    if not used:
        raise CorpusError(_none_usable(read, skipped, longest))


def _none_usable(read: int, skipped: int, longest: int) -> str:
    """Why no document could be used, and what to do."""
    reasons, advice = [], []
    if skipped:
        reasons.append(f"{skipped} of them longer than {longest} tokens")
        advice.append("use a longer `window`, or cut long ones with `too_long='cut'`")
    if read > skipped:
        reasons.append(f"{read - skipped} of them too short, or with special tokens such as <extra_id_0> or </s>")
        advice.append("give other text")
    if read == 1:
        reasons = [reason.removeprefix("1 of them ") for reason in reasons]
    return f"of {counted(read, 'document')} none can be used: {', '.join(reasons)}; {', or '.join(advice)}"


def _example(sha256: str, ids: NDArray[np.int64], tokenizer: Tokenizer, seed: int) -> Example | None:
    if corruption.noise_counts(ids.size)[1] == 0 or corruption.has_special(ids, tokenizer):
        return None
    generator = np.random.default_rng([seed, int(sha256, 16)])
    corrupted = corruption.corrupt(ids, tokenizer, generator)
    return Example(sha256, corrupted.inputs, corrupted.targets, corrupted.span_mask)


def _batch(placed: Sequence[tuple[int, Example]], pad_id: int, decoder_start_id: int) -> Batch:
    rows = [row for _, row in placed]
    shifted = [np.append(decoder_start_id, row.targets[:-1]) for row in rows]
    return Batch(
        input_ids=_padded([row.inputs for row in rows], pad_id),
        attention_mask=_padded([np.ones_like(row.inputs) for row in rows], 0),
        decoder_input_ids=_padded(shifted, pad_id),
        labels=_padded([row.targets for row in rows], pad_id),
        label_mask=_padded([np.ones_like(row.span_mask) for row in rows], 0),
        span_mask=_padded([row.span_mask for row in rows], 0),
        places=np.array([place for place, _ in placed], np.int64),
    )


def _padded(rows: Sequence[NDArray[_Item]], fill: int) -> NDArray[_Item]:
    padded = np.full((len(rows), max(row.size for row in rows)), fill, rows[0].dtype)  # [batch, longest]
    for target, row in zip(padded, rows, strict=True):
        target[: row.size] = row
    return padded
