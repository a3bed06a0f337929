"""The HTML page: what it shows, that it needs nothing else, and what its parts are made of."""

import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from pointsman.bundle import Fidelity
from pointsman_calib.comparison import Limits
from pointsman_calib.comparison.records import (
    CalibratedExperts,
    FilledPassage,
    GenerationAgreement,
    Interval,
    LayerCoverage,
    NonFinite,
)
from pointsman_calib.comparison.summary import doubts, headline
from pointsman_calib.report import render
from pointsman_calib.report.axes import Axis, round_step
from pointsman_calib.report.drawing import SERIES, horizontal_axis, marker
from pointsman_calib.report.heat_map import heat_map
from pointsman_calib.report.line_plot import Group, line_plot
from pointsman_calib.report.markup import element, joined

LOADING = {"src", "href", "srcset", "data", "action", "poster", "xlink:href", "background", "formaction"}
VOID = {"meta"}


class Page(HTMLParser):
    """The page's elements, its text, and whether every element that is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def names(self):
        return [tag for tag, _ in self.elements]


@pytest.fixture(scope="module")
def html(comparison):
    return render(comparison)


def drawings(html):
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def test_every_figure_is_there(html):
    labels = [svg.get("aria-label") for svg in drawings(html)]
    assert labels == [
        "Loss, increase of the loss, size and speed of each variant",
        "Signal to noise of the residual stream after each block",
        "Signal to noise of the logits of each step",
        "Agreement of each sparse layer's router with the baseline's",
        *["Share of each sparse layer's tokens that each expert is given"] * 2,
    ]
    assert all(svg.get("role") == "img" and svg.find("title").text == svg.get("aria-label") for svg in drawings(html))


def test_nothing_is_loaded_from_elsewhere(html):
    page = Page(html)
    assert not {"script", "link", "iframe", "img", "object", "embed", "image", "use", "base"} & set(page.names())
    assert [attrs for _, attrs in page.elements if LOADING & attrs.keys()] == []
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in html
    assert not [value for _, attrs in page.elements for name, value in attrs.items() if name.startswith("on")]


def test_light_and_dark(html):
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    names = {*re.findall(r"(--\w+):", light)}
    assert names
    assert names == {*re.findall(r"(--\w+):", dark)}
    assert {*re.findall(r"var\((--\w+)\)", style)} <= names


def test_what_it_says(html, comparison):
    words = " ".join(Page(html).words)
    for variant in ("fused-float32", "fused-int8", "fused-int4"):
        assert variant in words
    for fact in (
        comparison.evaluation.sha256,
        comparison.candidates[1].variant.calibration.sha256,
        comparison.source_sha256,
        f"polygraphy {comparison.versions['polygraphy']}",
        "No limits were set, so nothing is judged here.",
        "cross_key.0",
    ):
        assert fact in words


def test_it_opens_with_a_line_a_variant(html, comparison):
    box, _, rest = html.partition("<h2>")
    for candidate in comparison.candidates:
        line = f"<strong>{candidate.variant.name}</strong>: {escape(headline(candidate, comparison.baseline))}</li>"
        assert line in box
        assert line not in rest
    assert all(escape(sentence) in box for sentence in doubts(comparison))


def test_speed_and_memory_are_those_that_were_measured(html, comparison):
    words = Page(html).words
    for variant in comparison.variants:
        start = words.index(variant.name, words.index("further tokens, ms each"))
        assert words[start + 1 : start + 6] == [
            f"{variant.bytes / 1e6:,.1f} MB",
            f"{variant.footprint.loaded_bytes / 1e6:,.1f} MB",
            f"{variant.footprint.peak_bytes / 1e6:,.1f} MB",
            f"{variant.speed.ms_to_first_token:.1f}",
            f"{variant.speed.ms_per_token:.2f}",
        ]
    assert f"A short measurement on this machine ({comparison.machine}; ONNX Runtime on the CPU)" in " ".join(words)


def test_tokens_beside_greedy(comparison):
    """Said of the candidate that agrees least."""
    int8, int4 = comparison.candidates
    greedy = GenerationAgreement(search="greedy", documents=5, identical=1, prefix=0.56)
    candidates = (replace(int8, token_agreement=0.999), replace(int4, token_agreement=0.996, generations=(greedy,)))
    html = render(replace(comparison, candidates=candidates))
    assert "do not contradict each other (fused-int4: 99.6% and 56.0%)" in html
    assert "at 99.6% a token, an output of 32 tokens stays the same to its end in 88% of cases" in html


def test_nothing_is_explained_where_nothing_seems_to_contradict(comparison):
    same = GenerationAgreement(search="greedy", documents=5, identical=5, prefix=1.0)
    candidates = tuple(replace(one, token_agreement=0.9999, generations=(same,)) for one in comparison.candidates)
    assert "do not contradict each other" not in render(replace(comparison, candidates=candidates))


def test_a_baseline_that_guesses(comparison):
    box, _, _ = render(comparison).partition("<h2>")
    words = "fused-float32 itself finds the right tokens no better than chance"
    assert words in box
    able = replace(comparison, evaluation=replace(comparison.evaluation, ids=10**6))
    assert words not in render(able)


def test_fills_side_by_side(comparison):
    passage = FilledPassage(
        segments=("The old", "r man <b>", ", who"),
        original=(" olde", "walk"),
        fills={"fused-float32": (" bigge", " ran"), "fused-int8": (" bigge", "s"), "fused-int4": ("", " ran")},
    )
    _, _, section = render(replace(comparison, passages=(passage,))).partition("<h2>What they write</h2>")
    section, _, _ = section.partition("<h2>")
    words = Page(section).words
    assert words[words.index("blank 1") - 1 :][:4] == ["The old ", "blank 1", "r man <b>", "blank 2"]
    rows = words[words.index("the text itself") :]
    assert rows[:3] == ["the text itself", "olde…", "…walk"]
    assert rows[3:] == ["fused-float32", "bigge…", "ran", "fused-int8", "bigge…", "…s", "fused-int4", "-", "ran"]
    assert re.findall("<mark>(.*?)</mark>", section) == ["…s", "-"]


def test_no_passages_no_section(comparison):
    assert "What they write" not in render(replace(comparison, passages=()))


@pytest.mark.parametrize(
    ("loss", "agreement", "is_explained", "is_advised"),
    [(-0.0001, 0.98, True, False), (-0.0001, 0.995, True, True), (0.002, 0.98, False, False)],
)
def test_why_gptq_where_rounding_to_nearest_loses_less(comparison, loss, agreement, is_explained, is_advised):
    int8, int4 = comparison.candidates
    reached, nearest = (
        Fidelity(loss_increase=increase, agreement=share, expert_agreement=0.99)
        for increase, share in ((0.0001, 0.99), (loss, agreement))
    )
    found = replace(int4.variant.sensitivity, reached=reached, nearest=nearest)
    html = render(
        replace(comparison, candidates=(int8, replace(int4, variant=replace(int4.variant, sensitivity=found))))
    )
    assert (
        "Rounding to nearest happens to lose less here, and GPTQ is preferred all the same." in html
    ) == is_explained
    assert ("<li>fused-int4: loss +0.01%, to nearest -0.01%; the float variant" in html) == is_explained
    assert ("So here both speak for rounding to nearest" in html) == is_advised


@pytest.mark.parametrize(
    "term", ["Inputs in two parts", "Thin experts", "In float", "Rounding", "Tokens", "Experts", "Loss", "First token"]
)
def test_terms_are_explained(html, term):
    assert f"<dt>{term}</dt><dd>" in html


def test_each_variant_has_its_point_and_interval(html, comparison):
    cost, *_ = drawings(html)
    hints = [title.text for title in cost.iter("title")]
    for variant in (comparison.baseline, *(candidate.variant for candidate in comparison.candidates)):
        assert f"{variant.loss.value:.4f}, from {variant.loss.low:.4f} to {variant.loss.high:.4f}" in hints
    sizes = [float(bar.get("width")) for bar in cost.iter("rect") if bar.get("class") == "bar"][:3]
    assert sizes[1] / sizes[0] == pytest.approx(
        comparison.candidates[0].variant.bytes / comparison.baseline.bytes, 0.02
    )


def test_limits_and_what_does_not_hold(comparison):
    int8, int4 = comparison.candidates
    limits = Limits(max_loss_increase=0.5, min_agreement=99)
    failed = replace(comparison, limits=limits, candidates=(int8, replace(int4, failures=("it is <bad> & ugly",))))
    html = render(failed)
    assert 'class="verdict failed"' in html
    assert 'class="verdict neutral"' in render(comparison)
    assert "fused-int4: it is &lt;bad&gt; &amp; ugly" in html
    assert 'class="limit"' in html
    held = render(replace(comparison, limits=limits))
    assert 'class="verdict held"' in held
    assert "All limits hold: the loss at most 0.5 % above the baseline&#x27;s; at least 99 % of tokens" in held


def test_a_candidate_of_which_nothing_could_be_measured(comparison):
    int8, int4 = comparison.candidates
    variant = replace(int8.variant, non_finite=(NonFinite(name="logits", values=1),), loss=None, speed=None)
    empty = {"outputs": (), "steps": (), "layers": (), "experts": (), "generations": ()}
    nothing = replace(int8, variant=variant, loss_increase=None, token_agreement=None, expert_agreement=None, **empty)
    for candidates in ((nothing, int4), (nothing,)):
        html = render(replace(comparison, candidates=candidates))
        Page(html)
        assert len(drawings(html)) == (6 if len(candidates) == 2 else 2)


def test_without_layers_and_generations(comparison):
    slim = [replace(candidate, layers=(), generations=()) for candidate in comparison.candidates]
    html = render(replace(comparison, candidates=tuple(slim)))
    assert len(drawings(html)) == 5


def test_experts_that_calibration_saw_little_of(comparison):
    int8, int4 = comparison.candidates
    coverage = (LayerCoverage(layer="encoder.block.1.layer.1.mlp", tokens=(90, 0, 7, 3)),)
    seen = CalibratedExperts(coverage=coverage, fewest_tokens=64, thin=3, instead="rounded to nearest")
    calibrated = replace(int4, variant=replace(int4.variant, calibrated_experts=seen))
    html = render(replace(comparison, candidates=(int8, calibrated)))
    assert (
        "Calibration of fused-int4: 3 of 4 experts were given fewer than 64 tokens and so rounded to nearest." in html
    )
    words = [text.text for text in drawings(html)[-1].iter("text")]
    assert words[:6] == ["expert", "0", "1", "2", "3", coverage[0].layer]


def test_text_is_escaped_and_markup_is_not():
    inner = element("b", 'a < "b" & c', title='"x"')
    assert inner == '<b title="&quot;x&quot;">a &lt; &quot;b&quot; &amp; c</b>'
    assert joined(inner, "<i>") == f"{inner}&lt;i&gt;"
    assert (
        element("rect", class_="bar", fill_opacity=0.5, x=1 / 3)
        == '<rect class="bar" fill-opacity="0.5" x="0.33"></rect>'
    )


@pytest.mark.parametrize(
    ("step", "rounded"), [(1.0, 1.0), (1.1, 2.0), (0.03, 0.05), (7.0, 10.0), (0.2, 0.2), (230.0, 500.0)]
)
def test_round_steps(step, rounded):
    assert round_step(step) == pytest.approx(rounded)


@pytest.mark.parametrize("numbers", [[], [3.0], [0.0, 0.0], [-0.2, 0.19], [26.1, 156.0], [99.98, 100.0], [1e-9, 2e-9]])
def test_axes_hold_their_numbers(numbers):
    axis = Axis.around(numbers, 10.0, 90.0, ticks=4)
    assert all(10 <= axis(number) <= 90 for number in numbers)
    assert 2 <= len(axis.ticks) <= 8
    assert (axis(axis.ticks[0]), axis(axis.ticks[-1])) == (10, 90)
    labels = [axis.label(tick) for tick in axis.ticks]
    assert len(set(labels)) == len(labels)


def test_an_axis_is_linear():
    axis = Axis.around([0.0, 100.0], 250.0, 50.0, ticks=5)
    assert (axis(0), axis(50), axis(100)) == (250, 150, 50)
    assert [axis.label(tick) for tick in axis.ticks] == ["0", "20", "40", "60", "80", "100"]


@pytest.mark.parametrize(("experts", "columns"), [(8, 8), (128, 128), (256, 128), (2048, 128), (130, 65)])
def test_many_experts_share_columns(experts, columns):
    svg = ElementTree.fromstring(heat_map([LayerCoverage(layer="encoder.block.1", tokens=(3,) * experts)]))
    cells = list(svg.iter("rect"))
    assert len(cells) == columns
    assert all(float(cell.get("width")) > 0 for cell in cells)


def test_cells_are_as_strong_as_their_share():
    svg = ElementTree.fromstring(heat_map([LayerCoverage(layer="encoder.block.1", tokens=(0, 10, 30, 20))]))
    cells = list(svg.iter("rect"))
    assert [float(cell.get("fill-opacity")) for cell in cells] == pytest.approx([0, 0.18, 0.55, 0.37])
    assert [cell.get("class") for cell in cells] == ["empty cell", "cell", "cell", "cell"]
    assert [cell.find("title").text for cell in cells] == ["0.00%", "16.67%", "50.00%", "33.33%"]


def test_a_layer_that_no_token_reached():
    assert "empty cell" in heat_map([LayerCoverage(layer="encoder.block.1", tokens=(0, 0))])


def test_a_gap_where_nothing_differs():
    group = Group("encoder block", ["0", "1", "2"], {"fused-int8": [None, 30.0, 20.0]})
    svg = ElementTree.fromstring(line_plot([group], "errors", "dB"))
    assert [title.text for title in svg.iter("title")][1:] == ["fused-int8", "fused-int8, 1: 30", "fused-int8, 2: 20"]
    _, drawn = svg.iter("polyline")  # after the legend's
    (_, y1), (_, y2) = (map(float, point.split(",")) for point in drawn.get("points").split())
    assert y1 < y2  # more signal is higher


def test_series_differ_not_only_by_colour():
    """Past the last colour, each has another shape than the first of its colour."""
    marks = [str(marker(0, 0, number, "")) for number in range(2 * SERIES)]
    assert len(set(marks)) == 2 * SERIES
    assert len({re.sub(r"s\d", "", mark) for mark in marks[:SERIES]}) == SERIES


def test_lines_differ_not_only_by_colour(html):
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    dashes = re.findall(r"\.line\.(s\d) \{ stroke-dasharray: ([\d ]+);", style)
    assert [name for name, _ in dashes] == [f"s{number}" for number in range(1, SERIES)]  # the first is solid
    assert len({dash for _, dash in dashes}) == SERIES - 1


@pytest.mark.parametrize("numbers", [(2.3401, 2.3499), (-0.02, 0.19), (123456.0, 123499.0)])
def test_labels_of_ticks_stand_apart(numbers):
    svg = ElementTree.fromstring(element("g", horizontal_axis(Axis.around(numbers, 0.0, 200.0, ticks=8), 0.0, 50.0)))
    labels = [(float(label.get("x")), 6 * len(label.text)) for label in svg.iter("text")]
    assert all(right - left >= (one + other) / 2 + 8 for (left, one), (right, other) in pairwise(labels))


def test_a_float_candidate_does_not_press_the_others_together(comparison):
    int8, int4 = comparison.candidates
    far = tuple(replace(errors, sqnr_db=140.0) for errors in int8.layers)
    portable = replace(int8, variant=replace(int8.variant, name="portable-float32", rounding=None), layers=far)
    html = render(replace(comparison, candidates=(portable, int4)))
    _, layers, steps, *_ = drawings(html)
    for plot in (layers, steps):
        assert {title.text.partition(",")[0] for title in plot.iter("title")} == {plot.get("aria-label"), "fused-int4"}
        assert {drawn.get("class") for drawn in plot.iter("polyline")} == {"line s1"}  # as in the other plots
    assert html.count("Far above, and so among the numbers only: portable-float32.") == 2
    assert "140.0" in html
    alone = render(replace(comparison, candidates=(portable,)))
    assert "Far above" not in alone
    assert len(drawings(alone)[1].findall("polyline")) > 0


def test_what_was_kept_more_precise_and_why(comparison):
    int8, int4 = comparison.candidates
    found = replace(
        int4.variant.sensitivity,
        costs={"decoder.block.3": 0.02, "shared.weight": 0.001},
        rerouted={"decoder.block.3": 0.0125, "shared.weight": 0.0},
        fine_inputs=("decoder.block.3.layer.2.mlp.wi",),
        nearest=Fidelity(loss_increase=0.0321, agreement=0.9, expert_agreement=0.95),
    )
    kept = replace(int4, variant=replace(int4.variant, sensitivity=found, kept=("lm_head.weight",)))
    html = render(replace(comparison, candidates=(int8, kept)))
    _, _, section = html.partition("<h2>Quantization</h2>")
    section, _, _ = section.partition("<h2>")
    words = Page(section).words
    for cell in (
        "fused-int4",
        "GPTQ",
        "+3.21%",
        "90.00%",
        "95.00%",
        "decoder.block.3.layer.2.mlp.wi",
        "lm_head.weight",
    ):
        assert cell in words
    assert (
        words.index("decoder.block.3") < words.index("0.02000") < words.index("1.250%") < words.index("shared.weight")
    )
    assert "What fused-int8 keeps more precise" not in section
    assert "What fused-int4 keeps more precise" in section
    assert "Quantization" not in Page(render(replace(comparison, candidates=()))).words


def test_speed_of_what_is_for_another_engine(comparison):
    int8, _ = comparison.candidates
    qdq = replace(int8, variant=replace(int8.variant, name="portable-int8-qdq", precision="int8-qdq"))
    words = "Portable-int8-qdq is for TensorRT: ONNX Runtime dequantizes its embedding and all of its experts in each"
    assert words in render(replace(comparison, candidates=(qdq,)))
    assert words not in render(comparison)


def test_when_and_with_what(html, comparison):
    assert f"Measured on {comparison.date} with ONNX Runtime on the CPU: {comparison.machine}." in html


def test_an_interval_of_one_number_is_drawn(comparison):
    point = Interval(value=2.0, low=2.0, high=2.0)
    int8, _ = comparison.candidates
    one = replace(int8, variant=replace(int8.variant, loss=point), loss_increase=replace(point, value=0, low=0, high=0))
    Page(render(replace(comparison, baseline=replace(comparison.baseline, loss=point), candidates=(one,))))


def test_no_interval_of_few_documents(comparison):
    point = Interval(value=2.0, low=None, high=None)
    int8, _ = comparison.candidates
    one = replace(int8, variant=replace(int8.variant, loss=point), loss_increase=replace(point, value=0))
    html = render(replace(comparison, baseline=replace(comparison.baseline, loss=point), candidates=(one,)))
    cost, *_ = drawings(html)
    assert "2.0000" in [title.text for title in cost.iter("title")]
    assert not [drawn for drawn in cost.iter("line") if drawn.get("class") == "whisker"]
    assert {"2.0000", "+0.00 %"} <= set(Page(html).words)
