"""The page in a real browser: type, blank, fill and read, all by keyboard; and what a screen reader is told."""

import math
import re

import httpx2
import pytest

from e2e.serving.browser import Browser, browsing, needs_a_browser
from e2e.serving.served import serving

TEXT = "The old man walks in the park."


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("profile")) as window:
        yield window


@pytest.fixture
def page(window: Browser, served):
    window.open(served.url)
    window.wait_for("return document.querySelectorAll('#model option').length")
    yield window
    assert [entry for entry in window.log() if entry["level"] != "INFO"] == []


def blanked(page):
    return page.run("return [...document.querySelectorAll('.word[aria-pressed=true]')].map((one) => one.textContent)")


def focused(page):
    return page.run("""const one = document.activeElement;
        return one.id || one.getAttribute('aria-label') || one.textContent""")


def write(page, text):
    """Type a text over the one that is there, by keyboard."""
    page.run("document.querySelector('#text').select()")
    page.press(text)


def tab_to(page, wanted):
    for _ in range(12):
        page.press("Tab")
        if focused(page) == wanted:
            return
    raise AssertionError(f"no tab reaches {wanted}")


def filled(page):
    page.wait_for("return document.querySelector('#status').textContent.startsWith('Done')")
    return page.text("#filled")


@needs_a_browser
def test_all_by_keyboard(page, library):
    page.press("Tab")
    assert focused(page) == "text"
    write(page, TEXT)
    page.press("Tab")
    assert focused(page) == "The"
    page.press("Right", "Right", "Space", "End", "Left", "Enter")
    assert blanked(page) == ["man", "the"]
    assert page.text("#status") == "2 blanks"
    page.press("Space", "Space")
    tab_to(page, "fill")
    page.press("Enter")
    text = filled(page)
    greedy = library.infill("The old <extra_id_0> walks in <extra_id_1> park.")[0]
    assert text == greedy.text
    assert page.text("#filled mark") == greedy.spans[0].text
    choose_another_by_keyboard(page, text)
    read_the_experts_by_keyboard(page, library, greedy.text)


def read_the_experts_by_keyboard(page, library, text):
    for title in ("Encoder", "Decoder"):
        tab_to(page, f"{title}: the expert of each token, layer by layer")
    assert page.role("#encoder-experts .wide") == "region"
    assert page.role("#encoder-experts table") == "table"
    rows = page.run(ROWS, "#encoder-experts table")
    assert [row[0] for row in rows] == ["Layer", "Block 1", "Block 3"]
    assert rows[0][1:4] == ["The", "old", "<extra_id_0>"]
    assert all(0 <= int(expert) < 8 for row in rows[1:] for expert in row[1:])
    spans = library.infill("The old <extra_id_0> walks in <extra_id_1> park.")[0].spans
    assert page.run(ROWS, "#decoder-experts table")[0][3] == spans[0].text
    at = "return document.activeElement.scrollLeft"
    page.run("document.activeElement.style.width = '10rem'")
    page.press("Right")
    page.wait_for(at)


ROWS = """return [...document.querySelector(arguments[0]).rows]
    .map((row) => [...row.cells].map((cell) => cell.textContent))"""


def choose_another_by_keyboard(page, before):
    page.run("document.querySelector('fieldset input:checked').focus()")
    page.press("Down")
    assert page.text("#filled") != before
    assert page.text("#status") == page.text("#filled")


@needs_a_browser
def test_alternatives_have_the_librarys_likelihoods(page, library):
    write(page, "The ___ walks in the park.")
    page.click("#fill")
    filled(page)
    rows = page.run("return [...document.querySelectorAll('.alternative')].map((row) => row.textContent)")
    assert 1 < len(rows) <= 5
    texts = [re.fullmatch(r"(.*?)(?:< )?([\d.]+) %", row) for row in rows]
    shown = [float(found[2]) for found in texts]
    assert shown == sorted(shown, reverse=True)
    assert sum(shown) < 99
    fills = library.infill("The <extra_id_0> walks in the park.", num_beams=5, num_return_sequences=5)
    own = {fill.spans[0].text: 100 * math.exp(fill.spans[0].score) for fill in fills}
    assert len(own.keys() & {found[1] for found in texts}) >= 2
    for found, percent in zip(texts, shown, strict=True):
        assert percent == pytest.approx(max(0.1, own.get(found[1], percent)), rel=0.05, abs=0.06)
    assert page.run("return document.querySelector('#alternatives-hint').checkVisibility()")


@needs_a_browser
@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("The ___ is on <extra_id_0> and sings.", "The <extra_id_1> is on <extra_id_0> and sings."),
        ("My <extra_id_3> sleeps.", "My <extra_id_3> sleeps."),
        (
            "A <extra_id_2> (<extra_id_1>), ___ <extra_id_0>.",
            "A <extra_id_2> (<extra_id_1>), <extra_id_3> <extra_id_0>.",
        ),
        ("un<extra_id_1>ed ___ ___ things___here", "un<extra_id_1>ed <extra_id_0> things<extra_id_2>here"),
        ("___ <extra_id_01>, ___!", "<extra_id_0> <extra_id_01>, <extra_id_1>!"),
    ],
)
def test_blanks_that_a_text_has_itself(page, written, asked):
    assert (
        page.run("return import('/page/words.js').then((it) => it.withBlanks(it.wordsOf(arguments[0])).text)", written)
        == asked
    )


@needs_a_browser
def test_blanks_with_numbers_are_filled_and_stay(page, library):
    write(page, "My <extra_id_3> sleeps.")
    page.click(".word:nth-child(2)")
    assert blanked(page) == ["<extra_id_3>"]
    page.click("#fill")
    assert filled(page) == library.infill("My <extra_id_3> sleeps.")[0].text


@needs_a_browser
def test_no_older_result_stands_below_an_error(page):
    write(page, "The ___ walks in the park.")
    page.click("#fill")
    filled(page)
    for text in ("<extra_id_0> and <extra_id_0>", "nothing"):
        write(page, text)
        page.click("#fill")
        page.wait_for("return document.querySelector('#status').classList.contains('failed')")
        for part in ("#result", "#experts"):
            assert not page.run("return document.querySelector(arguments[0]).checkVisibility()", part)
    page.log()  # the browser tells of status 400


@needs_a_browser
def test_spans_stream_in(page):
    page.run("""
        window.seen = [];
        new MutationObserver(() => seen.push(document.querySelector('#filled').textContent))
            .observe(document.querySelector('#filled'), { childList: true });
    """)
    write(page, TEXT.replace("man", "___").replace("the", "___"))
    page.click("#fill")
    filled(page)
    seen = page.run("return seen")
    assert seen[0].count("…") == 2
    assert any(one.count("…") == 1 for one in seen)


@needs_a_browser
def test_mouse_and_neighbours(page):
    write(page, TEXT)
    page.click(".word:nth-child(2)")
    page.click(".word:nth-child(3)")
    assert page.text("#status") == "1 blank"
    page.click(".word:nth-child(5)")
    page.click(".word:nth-child(5)")
    assert blanked(page) == ["old", "man"]
    page.run("const text = document.querySelector('#text'); text.focus(); text.setSelectionRange(1000, 1000)")
    page.press(" It is")
    assert page.run("return document.querySelectorAll('.word').length") == 9
    assert blanked(page) == ["old", "man"]


@needs_a_browser
def test_nothing_to_fill(page):
    write(page, TEXT)
    page.click("#fill")
    assert page.text("#status") == "There is no blank: choose a word first."
    assert not page.run("return document.querySelector('#result').checkVisibility()")


@needs_a_browser
def test_markup_in_a_text_stays_text(page):
    write(page, "<img src=x onerror=alert(1)> ___ <b>x</b>")
    page.click("#fill")
    filled(page)
    assert page.text("#filled").startswith("<img src=x onerror=alert(1)> ")
    assert page.run("return document.querySelectorAll('main img, main b').length") == 0


@needs_a_browser
def test_what_a_screen_reader_is_told(page):
    assert (page.role("#text"), page.label("#text")) == ("textbox", "Text")
    assert (page.role("#words"), page.label("#words")) == ("toolbar", "Words")
    assert page.role(".word") == "button"
    assert (page.role("#model"), page.label("#model")) == ("combobox", "Model")
    assert page.role("#status") == "status"
    assert page.run("return document.documentElement.lang") == "en"
    unnamed = """return [...document.querySelectorAll('button, input, select, textarea')]
        .filter((one) => !one.textContent && !one.labels?.length).map((one) => one.outerHTML)"""
    assert page.run(unnamed) == []


SHOWN = "p, label, h1, h2, button, textarea, a, legend, .percent, mark, td, th"
CONTRAST = """
    const channel = (value) => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const light = (color) => {
        const [r, g, b] = color.match(/[\\d.]+/g).map(Number);
        return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    };
    const behind = (one) => {
        const color = getComputedStyle(one).backgroundColor;
        return one.parentElement && color === 'rgba(0, 0, 0, 0)' ? behind(one.parentElement) : color;
    };
    return [...document.querySelectorAll(arguments[0])].map((one) => {
        const pair = [light(getComputedStyle(one).color), light(behind(one))].sort((a, b) => b - a);
        return [one.outerHTML.slice(0, 60), (pair[0] + 0.05) / (pair[1] + 0.05)];
    });
"""


@needs_a_browser
@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_contrast(served, tmp_path, is_dark):
    with browsing(tmp_path / "profile", is_dark=is_dark) as window:
        window.open(served.url)
        assert window.run("return matchMedia('(prefers-color-scheme: dark)').matches") is is_dark
        window.click(".word")
        window.click("#fill")
        filled(window)
        assert [one for one in window.run(CONTRAST, SHOWN) if one[1] < 4.5] == []


@needs_a_browser
def test_a_key_that_is_asked_for(bundle, window, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-some-length")
    with serving(bundle, "--api-keys", keys, "--with-routing") as running:
        window.open(running.url)
        window.click(".word")
        window.click("#fill")
        window.wait_for("return document.querySelector('#status').classList.contains('failed')")
        assert window.text("#status") == "this service asks for a key: Authorization: Bearer KEY"
        window.run("document.querySelector('#key').focus()")
        window.press("a-key-of-some-length")
        window.click("#fill")
        filled(window)
        window.wait_for("return !document.querySelector('#experts').hidden")  # models are listed again, with the key
        assert window.text("#model option") == bundle.name
    window.click("#fill")
    window.wait_for("return document.querySelector('#status').textContent === 'The service cannot be reached.'")


@needs_a_browser
def test_a_text_that_is_too_long_has_no_number(page):
    write(page, "___ ")
    page.run("const text = document.querySelector('#text'); text.value += 'x '.repeat(3000)")
    page.press("y")
    page.click("#fill")
    page.wait_for("return document.querySelector('#status').classList.contains('failed')")
    assert re.match(r"the text has \d+ tokens, and this bundle takes 2048 at most", page.text("#status"))
    page.log()  # the browser tells of status 400


def test_the_page_takes_as_many_characters_as_the_service(http, bundle):
    assert 'maxlength="32768"' in http.get("/").text
    with serving(bundle, "--max-characters", 500) as running:
        assert 'maxlength="500"' in httpx2.get(running.url).text


def test_nothing_comes_from_elsewhere(http):
    answer = http.get("/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; ")
    for name in re.findall(r'(?:href|src)="(page/[\w.]+)"', answer.text):
        assert http.get(f"/{name}").status_code == 200
    everything = answer.text + "".join(http.get(f"/page/{name}").text for name in ("page.js", "words.js", "style.css"))
    assert re.findall(r"(?:https?:)?//[\w.]+\.\w+/", everything) == []


@pytest.mark.parametrize("name", ["__init__.py", "nothing.js", "%2e%2e%2fapp.py", "index.html/"])
def test_other_files_cannot_be_asked_for(served, name):
    assert httpx2.get(f"{served.url}/page/{name}").status_code in (404, 307)
