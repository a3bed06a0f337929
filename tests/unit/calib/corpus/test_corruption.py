"""Span corruption against the published algorithm, written here a second time, token by token."""

import itertools
from collections import Counter

import numpy as np
import pytest

from places import SHARED_DATA
from pointsman.errors import CorpusError, OptionsError
from pointsman.text.tokenizer import Tokenizer
from pointsman_calib.corpus import corruption
from pointsman_calib.corpus.c4 import read_documents
from tiny_vocabulary import tiny_tokenizer

SHARED = SHARED_DATA
LENGTHS = [2, 3, 4, 9, 10, 11, 29, 30, 31, 63, 100, 190, 511, 568, 569, 1500]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def c4() -> tuple[Tokenizer, list[list[int]]]:
    """Every C4 document at hand as ids; those that need more than 100 sentinels are cut to what 99 spans take."""
    if not (SHARED / "c4").is_dir():
        pytest.skip("the C4 sample and T5's vocabulary are not beside the checkout")
    tokenizer = Tokenizer.load(SHARED / "t5")
    documents = read_documents([str(SHARED / "c4/*.json.gz")])
    return tokenizer, [tokenizer.encode(document.text, add_eos=False)[:1980] for document in documents]


def published_mask(length: int, generator: np.random.Generator) -> list[bool]:
    """`random_spans_noise_mask`: shuffled first-in-segment bits give segments, the two kinds alternate."""
    noise = min(max(int(np.round(np.float32(length) * np.float32(0.15))), 1), length - 1)
    spans = max(int(np.round(np.float32(noise) / np.float32(3.0))), 1)

    def random_segmentation(items: int) -> list[int]:
        bits = np.array([position < spans - 1 for position in range(items - 1)])
        generator.shuffle(bits)
        lengths = [1]
        for first_in_segment in bits:
            if first_in_segment:
                lengths.append(1)
            else:
                lengths[-1] += 1
        return lengths

    noise_lengths, kept_lengths = random_segmentation(noise), random_segmentation(length - noise)
    mask = []
    for kept_length, noise_length in zip(kept_lengths, noise_lengths, strict=True):
        mask += [False] * kept_length + [True] * noise_length
    return mask


def published_unique_sentinels(ids: list[int], mask: list[bool], vocab_size: int) -> list[int]:
    """`noise_span_to_unique_sentinel`; of the inverted mask, `nonnoise_span_to_unique_sentinel`."""
    result, sentinel = [], vocab_size
    for position, (token, is_noise) in enumerate(zip(ids, mask, strict=True)):
        if not is_noise:
            result.append(token)
        elif position == 0 or not mask[position - 1]:
            sentinel -= 1
            result.append(sentinel)
    return result


def qmoe_sequences(ids: list[int], mask: list[bool], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The encoder's and decoder's inputs as QMoE's evaluation puts them together: the latter end with a sentinel."""
    encoder, decoder, spans = [], [0], 0
    for is_noise, run in itertools.groupby(zip(mask, ids, strict=True), key=lambda pair: pair[0]):
        tokens = [token for _, token in run]
        if is_noise:
            encoder.append(tokenizer.sentinel_id(spans))
            decoder += [tokenizer.sentinel_id(spans), *tokens]
            spans += 1
        else:
            encoder += tokens
    return [*encoder, 1], [*decoder, tokenizer.sentinel_id(spans)]


def check(ids: list[int], tokenizer: Tokenizer, seed: int) -> None:
    ours = corruption.corrupt(ids, tokenizer, np.random.default_rng(seed))
    inputs, targets = ours.inputs.tolist(), ours.targets.tolist()
    mask = published_mask(len(ids), np.random.default_rng(seed))
    noise, spans = corruption.noise_counts(len(ids))
    closing = tokenizer.sentinel_id(spans)

    assert sum(mask) == noise
    assert inputs == [*published_unique_sentinels(ids, mask, tokenizer.vocab_size), 1]
    kept_replaced = published_unique_sentinels(ids, [not noisy for noisy in mask], tokenizer.vocab_size)
    assert targets == [*kept_replaced, closing, 1]
    assert (inputs, [0, *targets[:-1]]) == qmoe_sequences(ids, mask, tokenizer)
    sentinels = [tokenizer.sentinel_id(index) for index in range(spans + 1)]
    assert [token for token in targets if token in tokenizer.sentinel_ids] == sentinels
    assert [token for token in inputs if token in tokenizer.sentinel_ids] == sentinels[:-1]
    assert len(inputs) == corruption.inputs_length(len(ids))
    cut_out = [token for token, noisy in zip(ids, mask, strict=True) if noisy]
    assert ours.targets[ours.span_mask].tolist() == cut_out
    assert corruption.restore(inputs, targets).tolist() == ids


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("length", LENGTHS)
def test_equals_the_published_algorithm(tokenizer, length, seed):
    ids = np.random.default_rng([length, seed]).integers(2, tokenizer.sentinel_ids[0], length)
    check(ids.tolist(), tokenizer, seed)


def test_equals_the_published_algorithm_on_every_c4_document(c4):
    tokenizer, documents = c4
    assert len(documents) == 1030
    for seed, ids in enumerate(documents):
        check(ids, tokenizer, seed)


def test_types(tokenizer):
    corrupted = corruption.corrupt(range(3, 40), tokenizer, np.random.default_rng(0))
    kinds = [array.dtype.name for array in (corrupted.inputs, corrupted.targets, corrupted.span_mask)]
    assert kinds == ["int64", "int64", "bool"]
    assert corruption.noise_mask(40, np.random.default_rng(0)).dtype == bool


@pytest.mark.parametrize(
    ("length", "counts"),
    [
        (0, (0, 0)),
        (1, (0, 0)),
        (2, (1, 1)),
        (3, (1, 1)),
        (10, (2, 1)),  # 1.5 to even
        (30, (4, 1)),  # 4.5 to even
        (31, (5, 2)),
        (190, (29, 10)),  # 28.5 in float64, a little more in float32
        (568, (85, 28)),
        (10_000, (1500, 500)),
    ],
)
def test_counts(length, counts):
    assert corruption.noise_counts(length) == counts
    mask = corruption.noise_mask(length, np.random.default_rng(length))
    starts = int(mask[:1].sum() + (mask[1:] & ~mask[:-1]).sum())
    assert (mask.size, int(mask.sum()), starts) == (length, *counts)


def test_512_inputs_take_568_tokens_and_114_targets_without_the_closing_sentinel(tokenizer):
    assert corruption.longest_text(512) == 568
    corrupted = corruption.corrupt(np.full(568, 3), tokenizer, np.random.default_rng(0))
    assert (corrupted.inputs.size, corrupted.targets.size) == (512, 114 + 1)


def published_length(inputs_length: int) -> int:
    """`random_spans_helper`, one extra token a span."""

    def inputs_of(tokens: int) -> int:
        noise = round(tokens * 0.15)
        return tokens - noise + round(noise / 3.0) + 1

    tokens = inputs_length - 1
    while inputs_of(tokens + 1) <= inputs_length:
        tokens += 1
    return tokens


def test_the_longest_text_is_the_published_one():
    """Save where a half decides: the published helper rounds in float64, the published mask in float32."""
    differ = [n for n in range(16, 2100) if corruption.longest_text(n) != published_length(n)]
    assert all(abs(corruption.longest_text(n) - published_length(n)) == 1 for n in differ)
    assert len(differ) < 10
    for window in range(3, 2100):
        longest = corruption.longest_text(window)
        assert corruption.inputs_length(longest) <= window < corruption.inputs_length(longest + 1)


def test_all_masks_are_equally_likely():
    draws, possible = 20_800, 4 * 26  # 32 tokens: 5 of noise and 27 kept, each in 2 spans
    generator = np.random.default_rng(0)
    seen = Counter(corruption.noise_mask(32, generator).tobytes() for _ in range(draws))
    assert len(seen) == possible
    expected = draws / possible
    chi_square = sum((count - expected) ** 2 / expected for count in seen.values())
    assert chi_square < 160  # 103 degrees of freedom: exceeded once in 4000 seeds


def test_a_text_too_short_to_cut_stays_whole(tokenizer):
    for ids in ([], [7]):
        corrupted = corruption.corrupt(ids, tokenizer, np.random.default_rng(0))
        assert corrupted.inputs.tolist() == [*ids, 1]
        assert corrupted.targets.tolist() == [tokenizer.sentinel_id(0), 1]
        assert not corrupted.span_mask.any()
        assert corruption.restore(corrupted.inputs, corrupted.targets).tolist() == ids


@pytest.mark.parametrize("special", ["</s>", "<pad>", "<extra_id_0>", "<extra_id_99>"])
def test_special_tokens_are_refused(tokenizer, special):
    ids = tokenizer.encode(f"The man {special} walks", add_eos=False)
    with pytest.raises(CorpusError, match="holds special tokens; span corruption takes plain text, without </s>"):
        corruption.corrupt(ids, tokenizer, np.random.default_rng(0))


def test_unknown_characters_are_text(tokenizer):
    check([5, tokenizer.unk_id, 6, tokenizer.unk_id], tokenizer, 0)


def test_more_spans_than_sentinels(tokenizer):
    corruption.check_sentinels(1980, tokenizer)
    with pytest.raises(OptionsError, match="2000 tokens need 101 sentinels and the vocabulary has 100: use a shorter"):
        corruption.corrupt(np.full(2000, 3), tokenizer, np.random.default_rng(0))


@pytest.mark.parametrize("window", [-1, 0, 2])
def test_no_text_fits(window):
    with pytest.raises(OptionsError, match=f"the window is {window} tokens: give 3 or more, 512 for T5"):
        corruption.longest_text(window)


def test_the_smallest_window():
    assert corruption.inputs_length(corruption.longest_text(3)) == 3


S0, S1, S2 = 299, 298, 297
UNMATCHED = {
    "of two documents": ([5, S0, 1], [S0, 6, S1, 7, S2, 1]),
    "out of order": ([5, S1, 6, S0, 1], [S0, 7, S1, 8, S2, 1]),
    "target padded": ([5, S0, 1], [S0, 6, S1, 1, 0]),
    "no closing sentinel": ([5, S0, 1], [S0, 6, 1]),
}


@pytest.mark.parametrize(("inputs", "targets"), UNMATCHED.values(), ids=UNMATCHED.keys())
def test_restoring_what_does_not_belong_together(inputs, targets):
    with pytest.raises(CorpusError, match="the sentinels of inputs and targets differ; give the two of one document"):
        corruption.restore(inputs, targets)


@pytest.mark.parametrize(("inputs", "targets"), [([], [S0, 1]), ([5, 1], [1])])
def test_restoring_what_is_cut_off(inputs, targets):
    with pytest.raises(CorpusError, match="these are cut off"):
        corruption.restore(inputs, targets)
