"""What cannot be filled is refused at once, in a sentence that says which text or option it is and what helps."""

from dataclasses import replace

import pytest
from fake_backend import wandering
from small_bundles import EXTRA_IDS, fake_infiller

from pointsman import DecodingOptions
from pointsman.errors import OptionsError, TextError, TokenizerError
from tiny_vocabulary import tiny_tokenizer

VOCAB = 128
TEXT = "The <extra_id_0> walks."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("The dog walks.", "^the text has no blank: write <extra_id_0> where"),
        ("", "has no blank"),
        ("<extra_id_1> <extra_id_1>", "<extra_id_1> is there more than once"),
        ("<extra_id_20>", "<extra_id_20> is beyond the vocabulary: number blanks from 0 to 19"),
        (
            "<extra_id_0>" + " dog" * 200,
            "input 0 has [0-9]+ tokens, and this bundle takes 128 at most; shorten it, or export the",
        ),
        ("<extra_id_0> \ud800", "not valid Unicode"),
        (None, "^a text must be a string, not NoneType; decode or convert it"),
        (b"<extra_id_0>", "^a text must be a string, not bytes"),
    ],
)
def test_texts_that_cannot_be_filled(infiller, text, message):
    for method in (infiller.infill, infiller.stream):
        with pytest.raises(TextError, match=message):
            method(text)
    with pytest.raises(TextError, match=message):
        infiller.score(text, [["a"]])


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        (["<extra_id_0>"] * 3 + ["x"], {}, TextError, "input 3: the text has no blank"),
        (
            ["<extra_id_0>"] * 3 + ["x " * 200 + "<extra_id_0>"],
            {},
            TextError,
            "input 3 has 402 tokens, and this bundle takes 128",
        ),
        (
            ["<extra_id_0>"] * 3 + ["<extra_id_0><extra_id_1>"],
            {"max_new_tokens": 3},
            OptionsError,
            "max_new_tokens 3 is too few for the 2 blanks of input 3; use at least 4, two for each blank",
        ),
    ],
)
def test_texts_are_checked_before_the_first_batch_and_numbered_throughout(infiller, texts, options, error, message):
    with pytest.raises(error, match=message):
        infiller.infill_in_batches(texts, 2, **options)
    assert infiller.model.backend.encoded == []


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("<extra_id_0>", "^the texts are a str; give a list of texts, or use infill for one"),
        (None, "^the texts are a NoneType; give a list of texts"),
        (["<extra_id_0>", 5], "^input 1: a text must be a string, not int"),
    ],
)
def test_batches_of_something_else(infiller, texts, message):
    with pytest.raises(TextError, match=message):
        infiller.infill_batch(texts)


def test_options_of_another_type(infiller):
    for method in (infiller.infill, infiller.stream):
        with pytest.raises(
            OptionsError, match=r"^options are {'num_beams': 2}; use DecodingOptions, with their names as"
        ):
            method("<extra_id_0>", {"num_beams": 2})


@pytest.mark.parametrize("size", [0, -1, "x"])
def test_batches_of_nothing(infiller, size):
    with pytest.raises(OptionsError, match=f"batch_size is {size!r}; use a whole number of at least 1"):
        infiller.infill_in_batches(["<extra_id_0>"], size)


def test_a_batch_says_which_text_is_wrong(infiller):
    with pytest.raises(TextError, match=r"^input 1: the text has no blank"):
        infiller.infill_batch(["<extra_id_0>", "nothing"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_return_sequences": 2}, "num_return_sequences 2 is above num_beams 1; raise num_beams"),
        ({"max_new_tokens": 3}, "max_new_tokens 3 is too few for the 2 blanks of input 0; use at least 4"),
        (
            {"max_new_tokens": 129},
            "max_new_tokens is 129, and this bundle allows at most 128; ask for less, or export it again",
        ),
        ({"options": DecodingOptions(), "num_beams": 2, "seed": 1}, "options and num_beams, seed are both given"),
    ],
)
def test_options_that_cannot_be(infiller, arguments, message):
    with pytest.raises(OptionsError, match=message):
        infiller.infill("<extra_id_0> <extra_id_1>", **arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda one: one.infill("<extra_id_0>", num_beam=4), "num_beam is no option; did you mean num_beams?"),
        (lambda one: one.infill_batch(["<extra_id_0>"], beams=4), "beams is no option; did you mean num_beams?"),
        (lambda one: one.infill_in_batches(["<extra_id_0>"], 1, Seed=4), "Seed is no option; did you mean seed?"),
        (lambda one: one.stream("<extra_id_0>", max_tokens=4), "max_tokens is no option; did you mean max_new_tokens?"),
        (lambda one: one.request("<extra_id_0>", topk=4), "topk is no option; did you mean top_k?"),
        (lambda one: one.model.generate([[5]], num_beam=4), "num_beam is no option; did you mean num_beams?"),
        (lambda one: one.model.stream([[5]], do_samples=4), "do_samples is no option; did you mean do_sample?"),
        (lambda one: DecodingOptions(num_beam=4), "num_beam is no option; did you mean num_beams?"),
        (lambda one: replace(DecodingOptions(), num_beam=4), "num_beam is no option; did you mean num_beams?"),
        (lambda one: one.score("<extra_id_0>", [["a"]], num_beams=4), "num_beams is no argument of score; use text or"),
        (lambda one: one.model.score([[5]], [[5]], targets=4), "targets is no argument of score; did you mean"),
        (lambda one: one.infill("<extra_id_0>", xyz=4), "xyz is no option; use max_new_tokens, min_new_tokens, num_"),
    ],
)
def test_a_misspelt_option_names_the_nearest(infiller, call, message):
    with pytest.raises(OptionsError) as caught:
        call(infiller)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("texts", [["<extra_id_0>"], ("<extra_id_0>", "<extra_id_1>"), iter(["<extra_id_0>"])])
@pytest.mark.parametrize("method", ["infill", "stream", "request"])
def test_several_texts_where_one_is_taken(infiller, method, texts):
    kind = type(texts).__name__
    with pytest.raises(TextError) as caught:
        getattr(infiller, method)(texts)
    assert str(caught.value) == f"{method} takes one text, and this is a {kind}; use infill_batch for several"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 90}, "and the model's embedding 90 rows"),
        ({"eos_token_id": 3}, "pad and eos are 0 and 1 in the vocabulary, 0 and 3 in the model"),
    ],
)
def test_vocabulary_and_model_must_belong_together(manifest, changes, message):
    other = replace(manifest, architecture=replace(manifest.architecture, **changes))
    tokenizer = tiny_tokenizer(EXTRA_IDS)
    with pytest.raises(TokenizerError, match=message):
        fake_infiller(other, tokenizer, wandering(VOCAB))


LISTS = "give a list of"


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda one: one.fill_requests(one.request(text) for text in [TEXT]), f"the requests are a generator; {LISTS}"),
        (lambda one: one.fill_requests([TEXT]), "a request is a str; make it with `request`"),
        (lambda one: one.fill_requests([None]), "a request is a NoneType; make it with `request`"),
        (lambda one: one.fill_requests(TEXT), f"the requests are a str; {LISTS} requests"),
        (lambda one: one.infill_in_batches(iter([TEXT])), f"the texts are a list_iterator; {LISTS} texts"),
        (lambda one: one.infill_batch({TEXT}), f"the texts are a set; {LISTS} texts, or use infill for one"),
        (lambda one: one.score(TEXT, ([span] for span in "ab")), f"the candidates are a generator; {LISTS} candidates"),
        (
            lambda one: one.score(TEXT, [(span for span in "a")]),
            f"candidate 0: the spans are a generator; {LISTS} spans",
        ),
        (lambda one: one.score(TEXT, [[5]]), "candidate 0: a span must be a string, not int"),
        (lambda one: one.score(TEXT, [["man", None]]), "candidate 0: a span must be a string, not NoneType"),
    ],
)
def test_what_is_no_list_is_refused_at_once(infiller, ask, said):
    """What can be read only once would give nothing, or less than was asked for, without a word."""
    with pytest.raises(TextError) as raised:
        ask(infiller)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize("number", [-1, 0.5, True])
def test_a_number_that_is_none(infiller, number):
    with pytest.raises(OptionsError, match=f"number is {number!r}; use a whole number of at least 0"):
        infiller.request(TEXT, number=number)


def test_a_batch_of_no_size(infiller):
    with pytest.raises(OptionsError, match="batch_size is 0; use a whole number of at least 1"):
        infiller.fill_requests([infiller.request(TEXT)], 0)
