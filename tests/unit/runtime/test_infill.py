"""Infilling over an engine that computes nothing: spans land where they belong, whatever the model says."""

import copy
import pickle
import random
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from fake_backend import saying, wandering
from small_bundles import EXTRA_IDS, fake_infiller

from pointsman import DecodingOptions
from pointsman.bundle import Limits
from pointsman.infill import Fill, Span
from pointsman.text.tokenizer import Tokenizer
from tiny_vocabulary import write_tiny_vocabulary

VOCAB = 128
PAD, EOS = 0, 1
TEXT = "The <extra_id_0> walks."


@pytest.fixture
def answering(manifest, tokenizer):
    """An infiller whose model gives scripted answers, written as text with sentinels and without spaces to add."""

    def make(*answers):
        return fake_infiller(manifest, tokenizer, saying(VOCAB, *(ids_of(tokenizer, answer) for answer in answers)))

    return make


def ids_of(tokenizer, answer):
    """Ids of an answer such as `["<0>", " dog", "<1>"]`."""
    ids = []
    for part in answer:
        if part.startswith("<"):
            ids.append(
                {"<pad>": PAD, "<eos>": EOS}.get(part) if part[1:2] in "pe" else tokenizer.sentinel_id(int(part[1:-1]))
            )
        else:
            ids.extend(tokenizer.encode_span(part))
    return ids


def test_spans_land_in_their_blanks(answering):
    infiller = answering(["<0>", " cute dog", "<1>", " the park", "<2>"])
    (fill,) = infiller.infill("The <extra_id_0> walks in <extra_id_1>.")
    assert fill.text == "The cute dog walks in the park."
    assert [(span.index, span.text, span.state) for span in fill.spans] == [
        (0, "cute dog", "complete"),
        (1, "the park", "complete"),
    ]


def test_numbers_and_their_order_are_the_texts(answering):
    infiller = answering(["<7>", " dog", "<2>", " park", "<3>"])
    (fill,) = infiller.infill("The <extra_id_7> walks in the <extra_id_2>.")
    assert fill.text == "The dog walks in the park."
    assert [span.index for span in fill.spans] == [7, 2]


def test_the_text_goes_to_the_model_as_it_is_written(answering, tokenizer):
    infiller = answering(["<7>", " dog", "<8>"])
    text = "  The\t<extra_id_7>\r\n walks </s> home  "
    (fill,) = infiller.infill(text)
    assert infiller.model.backend.encoded == [[tuple(tokenizer.encode(text))]]
    assert fill.text == text.replace("<extra_id_7>", "dog")


@pytest.mark.parametrize(
    ("text", "span", "filled"),
    [
        ("un<extra_id_0>able", "believ", "unbelievable"),
        ("The<extra_id_0> walks", " dog", "The dog walks"),
        ("<extra_id_0> walks", " Nobody", "Nobody walks"),
        ("(<extra_id_0>)", "again", "(again)"),
        ("\u00e9\u200b<extra_id_0>\U0001f600\n", " dog", "\u00e9\u200bdog\U0001f600\n"),
    ],
)
def test_spaces(answering, text, span, filled):
    assert answering(["<0>", span, "<1>"]).infill(text)[0].text == filled


def test_scores_of_fill_and_spans(answering):
    infiller = answering(["<0>", " cute dog", "<1>", " the park", "<2>"])
    text = "The <extra_id_0> walks in <extra_id_1>."
    options = DecodingOptions(max_new_tokens=32, constrain=False)
    (fill,) = infiller.infill(text, options)
    (generation,) = infiller.model.generate([infiller.tokenizer.encode(text)], options)[0]
    first, second, closing = (generation.token_ids.index(infiller.tokenizer.sentinel_id(n)) for n in range(3))
    spans = [slice(first + 1, second), slice(second + 1, closing)]
    assert fill.score == generation.score
    assert [span.token_ids for span in fill.spans] == [generation.token_ids[span] for span in spans]
    assert [span.score for span in fill.spans] == [pytest.approx(sum(generation.token_logprobs[s])) for s in spans]
    assert all(span.score < 0 for span in fill.spans)


@pytest.mark.parametrize("search", [{}, {"num_beams": 4, "num_return_sequences": 3}, {"do_sample": True, "seed": 1}])
@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_model_says_every_blank_is_filled_and_the_rest_untouched(manifest, tokenizer, search, seed):
    infiller = fake_infiller(manifest, tokenizer, wandering(VOCAB, seed))
    rng = random.Random(seed)
    numbers = rng.sample(range(EXTRA_IDS), rng.randint(1, 6))
    gaps = ["".join(rng.choices(" \n\tab\u00e9\u2028.", k=rng.randrange(8))) for _ in range(len(numbers) + 1)]
    text = gaps[0] + "".join(f"<extra_id_{n}>{gap}" for n, gap in zip(numbers, gaps[1:], strict=True))
    for fill in infiller.infill(text, **search):
        assert [span.index for span in fill.spans] == numbers
        assert all(span.text.strip() and span.state in {"complete", "cut"} for span in fill.spans)
        assert fill.text == gaps[0] + "".join(s.text + gap for s, gap in zip(fill.spans, gaps[1:], strict=True))
        assert "<extra_id" not in fill.text
        assert "<unk>" not in fill.text
        ids = [token for span in fill.spans for token in span.token_ids]
        assert all(tokenizer.unk_id < token < tokenizer.sentinel_ids[0] for token in ids)


@pytest.mark.parametrize("search", [{}, {"num_beams": 4, "num_return_sequences": 3}])
@pytest.mark.parametrize("start", ["", "▁"])
def test_sentinels_may_be_pieces_in_any_order(manifest, tmp_path, start, search):
    symbols = [f"{start}<extra_id_{n}>" for n in random.Random(0).sample(range(EXTRA_IDS), EXTRA_IDS)]
    write_tiny_vocabulary(tmp_path, user_defined_symbols=symbols)
    tokenizer = Tokenizer.load(tmp_path)
    infiller = fake_infiller(manifest, tokenizer, wandering(VOCAB))
    for fill in infiller.infill("un<extra_id_4>able <extra_id_0> (<extra_id_19>)", **search):
        first, second, third = (span.text for span in fill.spans)
        assert fill.text == f"un{first}able {second} ({third})"
        assert all(text.strip() for text in (first, second, third))
        assert not {token for span in fill.spans for token in span.token_ids} & {*tokenizer.sentinel_ids}
    ((encoded,),) = infiller.model.backend.encoded
    blanks = [tokenizer.sentinel_id(number) for number in (4, 0, 19)]
    assert [token for token in encoded if token in tokenizer.sentinel_ids] == blanks
    (score,) = infiller.score("The <extra_id_4>.", [["man"]])
    closing = [tokenizer.sentinel_id(4), *tokenizer.encode_span(" man"), tokenizer.sentinel_id(5), tokenizer.eos_id]
    (expected,) = infiller.model.score([tokenizer.encode("The <extra_id_4>.")], [closing])
    assert score == pytest.approx(float(expected.sum()))


@pytest.mark.parametrize("search", [{}, {"num_beams": 3}, {"max_new_tokens": 4}, {"max_new_tokens": 2}])
def test_a_span_of_spaces_is_not_one(manifest, tokenizer, search):
    (space,) = tokenizer.white_space_ids
    assert tokenizer.decode_span([space]) == " "
    answer = [tokenizer.sentinel_id(0), space, space, tokenizer.sentinel_id(1)]
    infiller = fake_infiller(manifest, tokenizer, saying(VOCAB, answer))
    (fill,) = infiller.infill("The <extra_id_0> walks", **search)
    assert fill.spans[0].text.strip()


@pytest.mark.parametrize(
    ("answer", "filled", "states"),
    [
        (["<0>", " dog", "<1>", " the", "<2>", "<eos>"], "The dog walks in the park.", ["complete", "complete"]),
        (["<1>", " the", "<0>", " dog", "<eos>"], "The dog walks in the park.", ["complete", "complete"]),
        (["<0>", " dog", "<eos>"], "The dog walks in  park.", ["complete", "missing"]),
        (["<0>", "<1>", " the", "<eos>"], "The  walks in the park.", ["complete", "complete"]),
        (["<eos>"], "The  walks in  park.", ["missing", "missing"]),
        ([" dog", "<9>", " the", "<eos>"], "The  walks in  park.", ["missing", "missing"]),
        (["<0>", " dog", "<0>", " cat", "<1>", " the", "<eos>"], "The dog walks in the park.", ["complete"] * 2),
        (["<0>", " dog", "<1>", *[" the"] * 40], "The dog walks in " + " ".join(["the"] * 29) + " park.", None),
    ],
)
def test_unconstrained_output_may_be_malformed(answering, answer, filled, states):
    text = "The <extra_id_0> walks in <extra_id_1> park."
    (fill,) = answering(answer).infill(text, constrain=False)
    if states is None:
        assert [span.state for span in fill.spans] == ["complete", "cut"]
        assert fill.text.startswith("The dog walks in the the")
        return
    assert fill.text == filled
    assert [span.state for span in fill.spans] == states
    for span in fill.spans:
        if span.state == "missing":
            assert (span.text, span.score, span.token_ids) == ("", 0.0, ())


@pytest.mark.parametrize(
    ("lengths", "options", "states"),
    [
        ([2, 1], {"max_new_tokens": 6}, "complete complete"),  # with one choice left, and at the last place
        ([3, 1], {"max_new_tokens": 7}, "complete complete"),
        ([3, 1], {"max_new_tokens": 6}, "cut cut"),  # it would have ended there, but it had no choice
        ([9, 1], {"max_new_tokens": 6}, "cut cut"),
        ([1, 1], {"max_new_tokens": 4}, "cut cut"),
        ([1, 1], {"max_new_tokens": 5}, "complete complete"),
        ([1, 9, 1], {"max_new_tokens": 9}, "complete cut cut"),
        ([9, 1, 1], {"max_new_tokens": 12}, "cut cut cut"),  # the room was gone with the first
        ([3, 9, 1], {"max_new_tokens": 12}, "complete cut cut"),
        ([1], {"max_new_tokens": 3}, "complete"),
        ([2], {"max_new_tokens": 3}, "cut"),
        ([1], {"max_new_tokens": 2}, "cut"),
        ([1], {"max_new_tokens": 6, "min_new_tokens": 6}, "cut"),  # the end may not come before the last token
        ([9, 1], {"max_new_tokens": 6, "constrain": False}, "cut missing"),
        ([3, 1], {"max_new_tokens": 6, "constrain": False}, "complete cut"),
    ],
)
@pytest.mark.parametrize("search", [{}, {"num_beams": 2}])
def test_a_span_is_cut_where_the_room_left_no_choice(answering, tokenizer, lengths, options, states, search):
    answer = [part for number, length in enumerate(lengths) for part in (f"<{number}>", *["a"] * length)]
    infiller = answering([*answer, f"<{len(lengths)}>"])
    text = " ".join(f"(<extra_id_{number}>)" for number in range(len(lengths)))
    (fill,) = infiller.infill(text, **options, **search)
    assert [span.state for span in fill.spans] == states.split()
    if not search:
        streamed = {span.index: span for span in infiller.stream(text, **options)}
        assert [*streamed.values()] == [*fill.spans]


@pytest.mark.parametrize("room", range(6, 40, 3))
@pytest.mark.parametrize("search", [{}, {"num_beams": 3, "num_return_sequences": 3}, {"do_sample": True, "seed": 2}])
def test_cut_is_what_the_constraint_lets_nothing_else_follow(manifest, tokenizer, room, search):
    """Asked of the constraint itself, at each place where a span ends."""
    infiller = fake_infiller(manifest, tokenizer, wandering(VOCAB, room))
    request = infiller.request("The <extra_id_2> walks<extra_id_0> in <extra_id_7>.", max_new_tokens=room, **search)
    constraint = infiller.constraint(request)
    (fills,) = infiller.fill_requests([request])
    for fill in fills:
        ids = [token for span in fill.spans for token in (tokenizer.sentinel_id(span.index), *span.token_ids)]
        end = 0
        for span in fill.spans:
            end += 1 + len(span.token_ids)
            prefix = np.array([[PAD, *ids[:end]]])
            left = constraint(prefix, np.zeros((1, VOCAB), np.float32))[0] > -np.inf
            has_choice = end < room and left[: tokenizer.sentinel_ids[0]][2:].any()
            ended_at_last = span is fill.spans[-1] and end < room
            assert span.state == ("complete" if has_choice or ended_at_last else "cut")


def test_fills_come_best_first(infiller):
    for search in (
        {"num_beams": 5, "num_return_sequences": 5},
        {"do_sample": True, "num_return_sequences": 5, "seed": 2},
    ):
        scores = [fill.score for fill in infiller.infill("The <extra_id_0>.", **search)]
        assert len(scores) == 5
        assert scores == sorted(scores, reverse=True)
        assert len(set(scores)) > 1


def test_a_batch_gives_what_each_text_gives(infiller):
    texts = ["The <extra_id_0> walks.", "<extra_id_3>", "Nobody <extra_id_1> in the <extra_id_0>, later <extra_id_2>."]
    together = infiller.infill_batch(texts, num_beams=3, num_return_sequences=2)
    assert [len(fills) for fills in together] == [2, 2, 2]
    assert together == [infiller.infill(text, num_beams=3, num_return_sequences=2) for text in texts]
    assert infiller.infill_batch([]) == []


def test_keywords_and_options_mean_the_same(infiller):
    text = "The <extra_id_0> walks."
    keywords = {"num_beams": 2, "max_new_tokens": 9, "length_penalty": 0.5}
    assert infiller.infill(text, **keywords) == infiller.infill(text, DecodingOptions(**keywords))
    assert infiller.infill(text, options=DecodingOptions(max_new_tokens=9)) != infiller.infill(text, **keywords)


@pytest.mark.parametrize(
    ("blanks", "limit", "room"), [(1, 128, 32), (3, 128, 32), (4, 128, 34), (10, 128, 82), (16, 128, 128), (1, 20, 20)]
)
def test_default_room_grows_with_the_blanks_up_to_the_limit(manifest, tokenizer, blanks, limit, room):
    """A model that says nothing but "a" fills all the room that there is."""
    (letter,) = tokenizer.encode_span("a")
    limited = replace(manifest, limits=Limits(tokens=limit))
    infiller = fake_infiller(limited, tokenizer, saying(VOCAB, [letter] * 200))
    text = "".join(f"<extra_id_{n}>" for n in range(blanks))
    (fill,) = infiller.infill(text)
    assert fill.spans[-1].state == "cut"
    assert sum(1 + len(span.token_ids) for span in fill.spans) == room


SAMPLING = {"do_sample": True, "seed": 3, "top_k": 0, "num_return_sequences": 2}


@pytest.mark.parametrize("search", [{}, {"num_beams": 2}, SAMPLING], ids=["greedy", "beams", "sampling"])
def test_fills_do_not_depend_on_the_batch_size(infiller, search):
    many = "".join(f"<extra_id_{n}>" for n in range(9))
    texts = ["a <extra_id_0>", many, "a <extra_id_0>", "a <extra_id_0>", "b <extra_id_1>"]
    by_size = [list(infiller.infill_in_batches(texts, size, **search)) for size in (1, 2, 3, 9)]
    assert by_size == [infiller.infill_batch(texts, **search)] * 4


def test_equal_texts_have_samples_of_their_own(infiller):
    one, other = infiller.infill_in_batches(["a <extra_id_0>"] * 2, 1, **SAMPLING)
    assert one != other
    assert one == infiller.infill("a <extra_id_0>", **SAMPLING)


def test_options_are_copied_and_sent_as_before():
    options = DecodingOptions(num_beams=4)
    assert pickle.loads(pickle.dumps(options)) == copy.copy(options) == options


def test_notebooks_show_a_fill_and_nothing_of_it_is_markup():
    spans = (
        Span(0, "<b>&amp;", -0.25, (4,), "complete"),
        Span(7, "  $x$\n<script>", -1.5, (5,), "cut"),
    )
    shown = Fill("A <img src=\"x\" onerror='f()'>\n<b>&amp;", -0.125, spans)._repr_html_()
    cells = Cells()
    cells.feed(shown)
    cells.close()
    assert cells.tags == {"p", "table", "tr", "th", "td", "span"}
    assert cells.texts[0] == "A <img src=\"x\" onerror='f()'>\n<b>&amp;"
    assert cells.texts[4:] == [
        *("whole", "-0.125"),
        *("<extra_id_0>", "<b>&amp;", "-0.250"),
        *("<extra_id_7>", "  $x$\n<script>", "-1.500", "cut"),
    ]


class Cells(HTMLParser):
    """The elements and texts of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.texts = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_a_request_may_stand_twice_in_a_list(infiller):
    one, other = infiller.request(TEXT), infiller.request("a <extra_id_0> b")
    first, second, third = infiller.fill_requests([one, other, one])
    assert first == third == infiller.infill(TEXT)
    assert second == infiller.infill("a <extra_id_0> b")
