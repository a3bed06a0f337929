"""Span corruption of fixed seeds, value by value: a change here changes every calibration and every figure."""

import hashlib

import numpy as np
import pytest

from pointsman_calib.corpus.batches import examples
from pointsman_calib.corpus.c4 import Document
from pointsman_calib.corpus.corruption import corrupt, noise_mask
from tiny_vocabulary import tiny_tokenizer

MASKS = {
    (2, 0): ".#",
    (12, 0): "..........##",
    (40, 0): "...........####.......................##",
    (40, 1): "..............................##....####",
    (64, 0): ".......................########.....#..........................#",
    (100, 7): ".............#.#####.............................##..............................###............####",
}
WINDOWS = {
    0: "a2da0e1c25b464a871e6e50444995a1f1384d5a7de9c54089a1b0d546f7cc5e0",
    1: "87b3018ac18b23a62316dfc8db61cfdfe51ac02a3ed188648af55e02df64ba45",
}
INPUTS = "0 1 2 3 4 5 6 7 8 9 10 <0> 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 <1> </s>"
TARGETS = "<0> 11 12 13 14 <1> 38 39 <2> </s>"
SPAN_MASKS = {0: ".######.#.#..", 1: ".#.###.####..", 2: ".####.##.##.."}


def mask_of(length: int, seed: int) -> str:
    return "".join(".#"[int(cut)] for cut in noise_mask(length, np.random.default_rng(seed)))


@pytest.mark.parametrize(("length", "seed"), MASKS)
def test_masks(length, seed):
    assert mask_of(length, seed) == MASKS[length, seed]


@pytest.mark.parametrize("seed", WINDOWS)
def test_a_whole_window(seed):
    assert hashlib.sha256(mask_of(568, seed).encode()).hexdigest() == WINDOWS[seed]


def test_a_text_of_the_numbers_to_39():
    tokenizer = tiny_tokenizer()
    corrupted = corrupt(np.arange(40) + 1000, tokenizer, np.random.default_rng(0))
    names = {tokenizer.eos_id: "</s>"} | {tokenizer.sentinel_id(n): f"<{n}>" for n in range(100)}
    written = [" ".join(names.get(i, str(i - 1000)) for i in ids) for ids in (corrupted.inputs, corrupted.targets)]
    assert written == [INPUTS, TARGETS]


@pytest.mark.parametrize("seed", SPAN_MASKS)
def test_the_seed_of_a_document(seed):
    """From the seed and the text's hash; one word fifty times is fifty tokens in any vocabulary."""
    tokenizer = tiny_tokenizer()
    (example,) = examples([Document("the " * 50, "golden")], tokenizer, seed=seed)
    assert "".join(".#"[int(span)] for span in example.span_mask) == SPAN_MASKS[seed]
