"""T5's span corruption: what Switch Transformers were trained on, and so what they are calibrated and compared on.

The algorithm is that of Raffel et al. 2020 (section 3.1.4, figure 2) as published in text-to-text-transfer-transformer:
`random_spans_noise_mask`, `noise_span_to_unique_sentinel`, `nonnoise_span_to_unique_sentinel`, and
`random_spans_helper` for lengths. 15 % of the tokens are cut out in spans of 3 on average::

    ids        Thank you for inviting me to your party last week
    inputs     Thank you <0> me to your party <1> week </s>
    targets    <0> for inviting <1> last <2> </s>

The published noise mask always ends in noise, so the published targets never have the closing sentinel that the
paper's figure shows. Here the end of the text counts as one more kept span, which gives every target its closing
sentinel and changes nothing else: the decoder's inputs then start with the start token and end with that sentinel, as
in the evaluation of QMoE (Frantar & Alistarh 2023).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pointsman.errors import CorpusError, OptionsError
from pointsman.text.tokenizer import Tokenizer

NOISE_DENSITY: Final = 0.15
MEAN_SPAN_LENGTH: Final = 3.0
SHORTEST_WINDOW: Final = 3  # one kept token, one sentinel, the end


@dataclass(frozen=True, slots=True)
class Corruption:
    """One document with spans cut out.

    Attributes:
        inputs: what the encoder reads, int64 ``[source]``: kept tokens, a sentinel for each span, ``</s>``.
        targets: what the decoder should write, int64 ``[target]``: each span after its sentinel, a closing
            sentinel, ``</s>``.
        span_mask: bool ``[target]``: the target is a token of a span, neither sentinel nor ``</s>``.
    """

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    span_mask: NDArray[np.bool_]


def noise_counts(length: int) -> tuple[int, int]:
    """How many tokens of a text of ``length`` tokens are cut out, and in how many spans.

    A text of fewer than two tokens has nothing to cut out. Otherwise at least one token is cut out and one is kept.
    """
    if length < 2:
        return 0, 0
    # In float32 and with halves to even, as TensorFlow does it: of 190 tokens 29 are noise, not 28.
    rounded = int(np.rint(np.float32(length) * np.float32(NOISE_DENSITY)))
    tokens = min(max(rounded, 1), length - 1)
    return tokens, max(round(tokens / MEAN_SPAN_LENGTH), 1)


def inputs_length(length: int) -> int:
    """The length of the encoder's inputs, ``</s>`` included, for a text of ``length`` tokens."""
    tokens, spans = noise_counts(length)
    return length - tokens + spans + 1


def longest_text(window: int) -> int:
    """The most tokens a text may have for its inputs to fit into ``window``: 568 for 512.

    Raises:
        OptionsError: no text fits.
    """
    if window < SHORTEST_WINDOW:
        raise OptionsError(f"the window is {window} tokens: give {SHORTEST_WINDOW} or more, 512 for T5 and Switch")
    length = window - 1
    while inputs_length(length + 1) <= window:
        length += 1
    return length


def noise_mask(length: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Draw which tokens of a text are cut out.

    Kept and cut-out spans alternate, the first is kept, and all masks with these counts are equally likely.

    Args:
        length: tokens of the text.
        generator: drawn from twice: for the lengths of the cut-out spans, then of the kept ones.

    Returns:
        bool ``[length]``, true where cut out.
    """
    tokens, spans = noise_counts(length)
    if spans == 0:
        return np.zeros(length, np.bool_)
    noise = _random_segmentation(tokens, spans, generator)
    kept = _random_segmentation(length - tokens, spans, generator)
    lengths = np.stack([kept, noise], axis=1).ravel()  # [2 * spans]
    return np.repeat(np.arange(lengths.size) % 2 == 1, lengths)


def corrupt(ids: ArrayLike, tokenizer: Tokenizer, generator: np.random.Generator) -> Corruption:
    """Cut random spans out of a text.

    Args:
        ids: the text's tokens, integers ``[length]``, without special tokens and so without ``</s>``.
        tokenizer: gives the sentinels and ``</s>``.
        generator: draws the spans.

    Raises:
        CorpusError: ``ids`` holds a special token, which targets could not be told apart from.
        OptionsError: there are more spans than sentinels.
    """
    text = np.asarray(ids, np.int64)
    if has_special(text, tokenizer):
        raise CorpusError("the text holds special tokens; span corruption takes plain text, without </s>")
    check_sentinels(text.size, tokenizer)
    with_end = np.append(text, tokenizer.eos_id)
    noise = np.append(noise_mask(text.size, generator), False)
    inputs, _ = _replace_runs(with_end, noise, tokenizer)
    spans, is_sentinel = _replace_runs(with_end, ~noise, tokenizer)
    return Corruption(inputs, np.append(spans, tokenizer.eos_id), np.append(~is_sentinel, False))


def restore(inputs: ArrayLike, targets: ArrayLike) -> NDArray[np.int64]:
    """Put the spans back: the ids that `corrupt` was given, where a sentinel's id falls as its number rises (T5's).

    Args:
        inputs: integers ``[source]``, unpadded.
        targets: integers ``[target]``, unpadded, of the same document.

    Returns:
        int64 ``[length]``, without ``</s>``.

    Raises:
        CorpusError: the two do not belong together.
    """
    kept, spans = np.asarray(inputs, np.int64), np.asarray(targets, np.int64)
    if kept.size < 1 or spans.size < 2:
        raise CorpusError("inputs and targets end in </s>, and targets have a closing sentinel; these are cut off")
    kept, spans = kept[:-1], spans[:-1]
    first, closing = spans[0], spans[-1]
    expected = np.arange(first, closing - 1, -1)
    in_inputs, in_targets = (np.flatnonzero((part >= closing) & (part <= first)) for part in (kept, spans))
    if not (np.array_equal(kept[in_inputs], expected[:-1]) and np.array_equal(spans[in_targets], expected)):
        raise CorpusError("the sentinels of inputs and targets differ; give the two of one document, without padding")
    pieces = np.split(kept, in_inputs)
    cut_out = np.split(spans, in_targets)[1:]  # each led by its sentinel, as are the pieces after the first
    return np.concatenate([pieces[0], *(p[1:] for pair in zip(cut_out, pieces[1:], strict=False) for p in pair)])


def has_special(ids: NDArray[np.int64], tokenizer: Tokenizer) -> bool:
    """Whether ``ids`` holds a sentinel, ``</s>`` or ``<pad>``; ``<unk>`` stands for text."""
    return bool(np.isin(ids, [tokenizer.eos_id, tokenizer.pad_id, *tokenizer.sentinel_ids]).any())


def check_sentinels(length: int, tokenizer: Tokenizer) -> None:
    """Check that the vocabulary has a sentinel for each span of a text of ``length`` tokens, and one to close.

    Raises:
        OptionsError: it has too few.
    """
    needed, there = noise_counts(length)[1] + 1, len(tokenizer.sentinel_ids)
    if needed > there:
        raise OptionsError(
            f"{length} tokens need {needed} sentinels and the vocabulary has {there}: use a shorter window"
        )


def _random_segmentation(items: int, segments: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Lengths of a partition of ``items`` into non-empty ``segments``, all partitions equally likely."""
    starts = np.arange(items - 1) < segments - 1  # [items - 1]: whether a segment starts after each item but the last
    generator.shuffle(starts)
    borders = np.flatnonzero(starts) + 1
    return np.diff(borders, prepend=0, append=items)


def _replace_runs(
    ids: NDArray[np.int64], mask: NDArray[np.bool_], tokenizer: Tokenizer
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Put the next sentinel in the place of each run of ``mask``; say where the sentinels are in the result."""
    first = mask & ~np.append(False, mask[:-1])
    replaced = ids.copy()
    replaced[first] = tokenizer.sentinel_ids[: -1 - int(first.sum()) : -1]
    stays = first | ~mask
    return replaced[stays], first[stays]
