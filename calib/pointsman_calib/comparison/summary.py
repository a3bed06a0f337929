"""What a comparison comes to: a line for each candidate, and what to doubt of the figures."""

from collections.abc import Iterator
from typing import Final

from pointsman_calib.comparison.records import CandidateResult, Comparison, Interval, VariantResult
from pointsman_calib.corpus.chance import no_better_than_chance
from pointsman_calib.corpus.few import few_labels
from pointsman_calib.settle import Limits

FEW_GENERATIONS: Final = 20
_ALIKE: Final = 1.05  # a ratio below it is not worth a decimal
_TIMES: Final = 1.5  # and one below this is said in percent


def headline(candidate: CandidateResult, baseline: VariantResult) -> str:
    """Size, speed and loss beside the baseline's.

    Such as ``3.5 times smaller, 2.1 times as fast, loss +0.02 % (cannot be told from 0)``.
    """
    variant = candidate.variant
    if variant.non_finite:
        return "gives values that are not finite, and so is of no use as it is"
    said = (_size(variant, baseline), _speed(variant, baseline), _loss(candidate.loss_increase))
    return ", ".join(filter(None, said))


def _size(variant: VariantResult, baseline: VariantResult) -> str:
    ratio = baseline.bytes / variant.bytes
    if max(ratio, 1 / ratio) < _ALIKE:
        return "of the same size"
    if max(ratio, 1 / ratio) < _TIMES:
        return f"{abs(1 - 1 / ratio):.0%} {'smaller' if ratio > 1 else 'larger'}"
    return f"{ratio:.1f} times smaller" if ratio > 1 else f"{1 / ratio:.1f} times as large"


def _speed(variant: VariantResult, baseline: VariantResult) -> str:
    if variant.precision == "int8-qdq":
        return "made for TensorRT (its speed here says nothing)"
    if variant.speed is None or baseline.speed is None:
        return ""
    ratio = baseline.speed.ms_per_token / variant.speed.ms_per_token
    if max(ratio, 1 / ratio) < _ALIKE:
        return "about as fast"
    rounds = speed_ratios(variant, baseline)
    unsure = f" ({min(rounds):.1f} to {max(rounds):.1f} in turns: not sure)" if min(rounds) < 1 < max(rounds) else ""
    return f"{ratio:.1f} times as fast{unsure}"


def speed_ratios(variant: VariantResult, baseline: VariantResult) -> list[float]:
    """How many times as fast as the baseline a token was, in each turn; none where speed was not measured."""
    if variant.speed is None or baseline.speed is None:
        return []
    rounds = zip(baseline.speed.ms_per_token_of_rounds, variant.speed.ms_per_token_of_rounds, strict=True)
    return [theirs / ours for theirs, ours in rounds]


def _loss(increase: Interval | None) -> str:
    if increase is None:
        return ""
    shown = f"loss {increase.value:+z.2f} %"
    if increase.low is None or increase.high is None:
        return f"{shown} (too few documents to say how sure that is)"
    if increase.low <= 0 <= increase.high:
        return f"{shown} (cannot be told from 0)"
    return f"{shown} ({increase.low:+z.2f} to {increase.high:+z.2f})"


def doubts(comparison: Comparison) -> Iterator[str]:
    """Sentences on why not to decide by these figures alone."""
    evaluation = comparison.evaluation
    if (guessed := guessing(comparison)) is not None:
        yield guessed
    if (few := few_labels(evaluation.documents, evaluation.label_tokens)) is not None:
        yield few
    counts = [found.documents for one in comparison.candidates for found in one.generations]
    if comparison.baseline.speed is None:
        yield "Nothing was generated, so there is no speed, no memory and no fills."
    elif counts and (documents := min(counts)) < FEW_GENERATIONS:
        yield (
            f"Few generations: {documents}. Greedy and 4 beams say little of so few; read the fills, or generate from "
            f"{FEW_GENERATIONS} documents or more."
        )


def guessing(comparison: Comparison) -> str | None:
    """That the baseline is no better than chance, where it is not."""
    loss = comparison.baseline.loss
    if loss is None:
        return None
    return no_better_than_chance(comparison.baseline.name, loss.value, comparison.evaluation.ids)


def limits_asked(limits: Limits) -> Iterator[str]:
    """The limits that are set, in words."""
    for words, limit in (
        ("the loss at most {:g} % above the baseline's", limits.max_loss_increase),
        ("at least {:g} % of tokens the baseline's", limits.min_agreement),
        ("at least {:g} % of tokens at the baseline's expert", limits.min_expert_agreement),
        ("logits at least {:g} dB above their error", limits.min_sqnr),
    ):
        if limit is not None:
            yield words.format(limit)
