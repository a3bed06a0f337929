"""The tokens of exported bundles are those of `generate` of transformers 5.23.0, whatever is asked of either.

Every checkpoint that transformers can generate with, both forms, over a grid of decoding options: in the fast run a
seeded sample of the grid on some, in the slow one all of it on all. Where tokens differ, the reference must itself have
had two candidates nearer to each other than float32 sums are exact; such cases are counted and rare.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from checkpoints import CHECKPOINTS, generates, reference, weights
from exports import FORMS
from parity.decoding_reference import Inputs, Reference, theirs
from parity.numpy_reference import NumpySwitch
from pointsman.decoding import DecodingOptions, Generation
from tolerances import NEAR_TIE, SCORE

PER_CHECKPOINT = 14  # cases of the grid in the fast run
SHARE_OF_NEAR_TIES = 0.02
GENERATING = [name for name, spec in CHECKPOINTS.items() if generates(spec)]
# One of each kind of architecture, and each storage of one; where both forms are there, they differ most.
FAST = {
    "tied": FORMS,
    "capacity-2": FORMS,
    "untied": ("fused",),
    "all-sparse": ("portable",),
    "router-bias": ("fused",),
    "wide-heads": ("portable",),
    "5-experts": ("portable",),
    # Architectures of those above.
    "bfloat16": ("fused",),
    "float16": ("portable",),
    "sharded": ("fused",),
    "bin": ("portable",),
    "bin-sharded": ("fused",),
}

# Beside what each case varies; processors, and lengths within which some sequences end.
OTHERS = (
    {},
    {"min_new_tokens": 7},
    {"min_new_tokens": 14},
    {"max_new_tokens": 1},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "min_new_tokens": 5},
)
LENGTHS = ((5, 12, 3), (9,), (4, 4), (17, 2, 8, 30))


def grid() -> Iterator[tuple[DecodingOptions, tuple[int, ...]]]:
    """Greedy decoding with everything, then beams with everything; batches take turns."""
    for lengths, others in product(LENGTHS, OTHERS):
        yield DecodingOptions(**{"max_new_tokens": 14} | others), lengths
    for number, (beams, penalty, early, others) in enumerate(
        product((2, 4, 8), (0.0, 0.6, 1.0, 2.0), (False, True, "never"), OTHERS)
    ):
        for returned in (1, beams):
            options = {"num_beams": beams, "length_penalty": penalty, "early_stopping": early, "max_new_tokens": 14}
            options["num_return_sequences"] = returned
            yield DecodingOptions(**options | others), LENGTHS[(number + returned) % len(LENGTHS)]


GRID = tuple(grid())


def sample(name: str) -> list[int]:
    """Cases for the fast run: a third of them greedy, different for every checkpoint."""
    rng = np.random.default_rng(CHECKPOINTS[name].seed)
    greedy = [number for number, (options, _) in enumerate(GRID) if options.num_beams == 1]
    beams = [number for number, (options, _) in enumerate(GRID) if options.num_beams > 1]
    some = PER_CHECKPOINT // 3
    return [*rng.choice(greedy, some, replace=False), *rng.choice(beams, PER_CHECKPOINT - some, replace=False)]


@pytest.fixture(scope="module")
def expected(exports):
    """What transformers generates, in float32, for a case; the same for both forms."""
    network = cache(lambda name: reference(exports.checkpoint(name)))

    @cache
    def generated(name: str, case: int) -> Reference:
        options, lengths = GRID[case]
        return theirs(network(name), batch(lengths), options)

    return generated


@cache
def batch(lengths: tuple[int, ...]) -> Inputs:
    """Right-padded ids of the whole vocabulary, each sequence closed by eos."""
    rng = np.random.default_rng(lengths)
    ids = np.zeros((len(lengths), max(lengths)), np.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = [*rng.integers(2, 128, length - 1), 1]
    return Inputs(torch.from_numpy(ids), torch.from_numpy((ids != 0).astype(np.int64)))


def sequences(inputs: Inputs) -> list[list[int]]:
    lengths = inputs.attention_mask.sum(1).tolist()
    return [row[:length] for row, length in zip(inputs.input_ids.tolist(), lengths, strict=True)]


def near_ties(exports, expected, name: str, form: str, cases: Sequence[int]) -> int:
    """Compare cases; return how many differ for a reason."""
    model, count = exports.model(name, form), 0
    for case in cases:
        options, lengths = GRID[case]
        got = model.generate(sequences(batch(lengths)), options)
        wanted = expected(name, case)
        if [[generation.token_ids for generation in of_input] for of_input in got] == wanted.token_ids:
            check_scores(got, wanted, options, f"{name}, {form}, {options}")
            continue
        gap = narrowest_gap(wanted, options, len(lengths))
        assert gap < NEAR_TIE.bound, f"{name}, {form}, {options}: other tokens, though candidates were {gap:.2g} apart"
        count += 1
    sys.stdout.write(f"{name}, {form}: {count} near ties in {len(cases)} cases\n")
    return count


def check_scores(got: list[list[Generation]], wanted: Reference, options: DecodingOptions, what: str) -> None:
    """As means over tokens, which scores are at a length penalty of 1."""
    lengths = np.array([[len(ids) for ids in of_input] for of_input in wanted.token_ids], np.float64)
    to_mean = lengths ** (options.length_penalty - 1)
    scores = np.array([[generation.score for generation in of_input] for of_input in got])
    expected = greedy_means(wanted) if wanted.scores is None else np.array(wanted.scores) * to_mean
    SCORE.check(scores * to_mean, expected, what)


def greedy_means(wanted: Reference) -> list[list[float]]:
    """Mean log-probability of each sequence, which greedy search of transformers does not tell itself."""
    logprobs = [torch.log_softmax(step, dim=-1) for step in wanted.output.scores]
    return [
        [np.mean([logprobs[step][row, token].item() for step, token in enumerate(ids)]) for ids in of_input]
        for row, of_input in enumerate(wanted.token_ids)
    ]


def narrowest_gap(wanted: Reference, options: DecodingOptions, inputs: int) -> float:
    """The smallest difference between neighbours among the candidates that the reference kept, and the next one."""
    if options.num_beams == 1:
        return min(
            float(-np.diff(step[row].topk(2).values))
            for row, ((ids,),) in enumerate(zip(wanted.token_ids, strict=True))
            for step in wanted.output.scores[: len(ids)]
        )
    of_results = [abs(np.diff(scores)).min(initial=np.inf) for scores in wanted.scores]
    return min(*gaps_between_beams(wanted, options, inputs), *of_results, np.inf)


def gaps_between_beams(wanted: Reference, options: DecodingOptions, inputs: int) -> Iterator[float]:
    """Replay the running beams of the reference from the scores of its steps."""
    beams = options.num_beams
    running = torch.full((inputs, beams), -1e9)
    running[:, 0] = 0.0
    for step in wanted.output.scores:
        candidates = (step.reshape(inputs, beams, -1) + running[:, :, None]).flatten(1)
        best = candidates.topk(2 * beams + 1)
        yield float((best.values[:, :-1] - best.values[:, 1:]).min())
        tokens, kept = best.indices[:, :-1] % step.shape[1], best.values[:, :-1]
        running = kept.masked_fill(tokens == 1, -1e9).topk(beams).values


@pytest.mark.parametrize(("name", "form"), [(name, form) for name, forms in FAST.items() for form in forms])
def test_tokens_and_scores_over_a_sample_of_the_grid(exports, expected, name, form):
    assert near_ties(exports, expected, name, form, sample(name)) <= 1


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("name", "form"), [*product(GENERATING, FORMS)])
def test_tokens_and_scores_over_the_whole_grid(exports, expected, name, form):
    assert near_ties(exports, expected, name, form, range(len(GRID))) <= SHARE_OF_NEAR_TIES * len(GRID)


def test_the_sample_asks_for_everything():
    """Together the checkpoints' samples hold every value of every option."""
    chosen = [GRID[case] for name in FAST for case in sample(name)]
    for field in (
        "num_beams",
        "length_penalty",
        "early_stopping",
        "min_new_tokens",
        "max_new_tokens",
        "no_repeat_ngram_size",
        "repetition_penalty",
    ):
        values = {getattr(options, field) for options, _ in GRID}
        assert {getattr(options, field) for options, _ in chosen} == values, field
    assert {lengths for _, lengths in chosen} == set(LENGTHS)
    assert {options.num_return_sequences == options.num_beams > 1 for options, _ in chosen} == {True, False}


def test_every_checkpoint_that_transformers_can_generate_with_is_held_to_it():
    assert set(FAST) <= set(GENERATING)
    assert set(CHECKPOINTS) - set(GENERATING) == {"gated", "long-decoder"}


def test_the_inputs_of_the_tight_checkpoint_lose_tokens(expected, exports):
    """Without drops in the encoder, that checkpoint would be like any other."""
    spec = CHECKPOINTS["capacity-2"]
    model = NumpySwitch(spec.architecture, {k: v.numpy() for k, v in weights(spec).items()}, spec.expert_capacity)
    for lengths in LENGTHS:
        for ids in sequences(batch(lengths)):
            model.encode(ids)
    assert model.dropped > 20
