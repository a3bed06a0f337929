"""Loss and agreement of each variant, and how to read shares that seem to contradict each other."""

from collections.abc import Iterator

from pointsman.bundle import names
from pointsman_calib.comparison.measuring.generation import MAX_NEW_TOKENS
from pointsman_calib.comparison.records import CandidateResult, Comparison
from pointsman_calib.comparison.table import AGREEMENT, agreement_rows, loss_interval, percent_interval
from pointsman_calib.report.markup import Markup, element
from pointsman_calib.report.tables import table
from pointsman_calib.report.terms import terms


def agreement(comparison: Comparison) -> Iterator[Markup]:
    """Two sections, each a table with what its terms mean."""
    yield element("h2", "Loss")
    yield table(("variant", "loss (95 % interval)", "increase (95 % interval)"), _losses(comparison))
    yield terms(
        {
            "Loss": "how surprised the model is by the right tokens: minus the logarithm of the probability that "
            "it gave them, in nats a token. Less is better.",
            "Increase": "of the loss, in percent of the baseline's, document by document. Where its interval holds "
            "0, the documents do not tell whether the variant is worse or better.",
            "95 % interval": "where the figure is on all text of this kind, as far as these documents tell: 95 % sure.",
        }
    )
    yield element("h2", "Beside the baseline")
    yield table(AGREEMENT, agreement_rows(comparison))
    yield from _tokens_beside_greedy(comparison.candidates)
    yield terms(
        {
            "Tokens": "share of labels at which both find the same token likeliest, with the right words before it. "
            "Labels are the tokens of the hidden words, the sentinels before them, and the end.",
            "Experts": "share of tokens that go to the baseline's expert.",
            "Greedy, 4 beams": "each variant goes on from its own words: share of the generated tokens before the "
            "first that differs.",
            f"{names.LOGITS}, worst of encoder": "how far the graphs' outputs stand above their error, in dB "
            "(signal to quantization noise ratio, SQNR): 20 dB is an error of a tenth, 40 dB of a hundredth. "
            "Logits are what the next token is chosen by; of the "
            "encoder's outputs the worst is shown.",
        }
    )


def _losses(comparison: Comparison) -> Iterator[tuple[str, str, str]]:
    yield comparison.baseline.name, loss_interval(comparison.baseline.loss), "-"
    for candidate in comparison.candidates:
        increase = percent_interval(candidate.loss_increase)
        yield candidate.variant.name, loss_interval(candidate.variant.loss), increase


def _tokens_beside_greedy(candidates: tuple[CandidateResult, ...]) -> Iterator[Markup]:
    """What the two shares have to do with each other, at the example of the candidate that agrees least."""
    measured = [
        (candidate.token_agreement, candidate.variant.name, found.prefix)
        for candidate in candidates
        for found in candidate.generations
        if candidate.token_agreement is not None
        and found.search == "greedy"
        and f"{candidate.token_agreement:.1%}" != f"{found.prefix:.1%}"
    ]
    if measured:
        tokens, name, greedy = min(measured)
        yield element(
            "p",
            f"“Tokens” and “greedy” do not contradict each other ({name}: {tokens:.1%} and {greedy:.1%}). Tokens asks "
            "about each place by itself. Greedy counts nothing after the first token that differs, though what "
            f"follows may be as good: at {tokens:.1%} a token, an output of {MAX_NEW_TOKENS} tokens stays the same to "
            f"its end in {tokens**MAX_NEW_TOKENS:.0%} of cases, if every token were as likely to differ. So decide by "
            "loss and tokens, and read the fills.",
        )
