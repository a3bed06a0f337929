"""What a person reads who asks for something that cannot be."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pointsman.decoding import DecodingOptions
from pointsman.errors import OptionsError


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; use a whole number of at least 1"),
        ({"max_new_tokens": 3.0}, "max_new_tokens is 3.0; use a whole number of at least 1"),
        ({"max_new_tokens": True}, "max_new_tokens is True; use a whole number of at least 1"),
        ({"max_new_tokens": None}, "max_new_tokens is None; use a whole number of at least 1"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1; use a whole number of at least 0"),
        ({"num_beams": "4"}, "num_beams is '4'; use a whole number of at least 1"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0; use a whole number of at least 1"),
        ({"no_repeat_ngram_size": -2}, "no_repeat_ngram_size is -2; use a whole number of at least 0"),
        ({"top_k": -1, "do_sample": True}, "top_k is -1; use a whole number of at least 0"),
        ({"seed": -5}, "seed is -5; use a whole number of at least 0"),
        ({"seed": 1.5}, "seed is 1.5; use a whole number of at least 0"),
        ({"temperature": 0, "do_sample": True}, "temperature is 0; use a number from 0.001 to 1000"),
        ({"temperature": math.nan, "do_sample": True}, "temperature is nan; use a number from 0.001 to 1000"),
        ({"temperature": math.inf, "do_sample": True}, "temperature is inf; use a number from 0.001 to 1000"),
        ({"temperature": 10**400}, f"temperature is {10**400}; use a number from 0.001 to 1000"),
        ({"temperature": 1e-38, "do_sample": True}, "temperature is 1e-38; use a number from 0.001 to 1000"),
        ({"repetition_penalty": 1e38}, "repetition_penalty is 1e+38; use a number from 0.01 to 100"),
        ({"repetition_penalty": -1.0}, "repetition_penalty is -1.0; use a number from 0.01 to 100"),
        ({"repetition_penalty": None}, "repetition_penalty is None; use a number from 0.01 to 100"),
        ({"top_p": 0.0, "do_sample": True}, "top_p is 0.0; use a number above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5; use a number above 0 and at most 1"),
        ({"length_penalty": 1000.0}, "length_penalty is 1000.0; use a number from -10 to 10"),
        ({"length_penalty": "1"}, "length_penalty is '1'; use a number from -10 to 10"),
        ({"length_penalty": math.nan}, "length_penalty is nan; use a number from -10 to 10"),
        ({"early_stopping": "always"}, "early_stopping is 'always'; use True, False or 'never'"),
        ({"early_stopping": 1}, "early_stopping is 1; use True, False or 'never'"),
        ({"do_sample": None}, "do_sample is None; use True or False"),
        ({"constrain": "yes"}, "constrain is 'yes'; use True, False or None"),
        (
            {"max_new_tokens": 4, "min_new_tokens": 5},
            "min_new_tokens 5 is above max_new_tokens 4; lower the one or raise the other",
        ),
        (
            {"do_sample": True, "num_beams": 4},
            "do_sample cannot be combined with num_beams 4; drop one of the two",
        ),
        (
            {"num_return_sequences": 3, "num_beams": 2},
            "num_return_sequences 3 is above num_beams 2; raise num_beams, or sample with do_sample=True",
        ),
        (
            {"temperature": 0.7, "top_p": 0.9},
            "temperature, top_p without do_sample would change nothing; add do_sample=True or leave out",
        ),
        ({"seed": 0}, "seed without do_sample would change nothing; add do_sample=True or leave out"),
        (
            {"num_beams": 0, "top_p": 2, "early_stopping": None},
            (
                "num_beams is 0; use a whole number of at least 1; top_p is 2; use a number above 0 and at most 1; "
                "early_stopping is None; use True, False or 'never'"
            ),
        ),
        (
            {"min_new_tokens": 40, "num_return_sequences": 2},
            (
                "min_new_tokens 40 is above max_new_tokens 32; lower the one or raise the other; "
                "num_return_sequences 2 is above num_beams 1; raise num_beams, or sample with do_sample=True"
            ),
        ),
    ],
)
def test_refused_in_one_line_that_names_every_problem(options, sentence):
    with pytest.raises(OptionsError) as caught:
        DecodingOptions(**options)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_new_tokens": 32},
        {"num_beams": 4, "num_return_sequences": 4, "length_penalty": -1, "early_stopping": "never"},
        {"do_sample": True, "num_return_sequences": 9, "temperature": 2, "top_k": 0, "top_p": 1},
        {"do_sample": True, "seed": 0, "temperature": 0.001, "repetition_penalty": 100},
        {"length_penalty": 0.0, "early_stopping": True},  # nothing to do for one beam, and no harm
        {"constrain": True},
        {"constrain": False},
        {"max_new_tokens": np.int64(3), "repetition_penalty": np.float32(1.5)},
    ],
    ids=str,
)
def test_accepted(options):
    DecodingOptions(**options)


def test_changed_options_are_checked_again():
    with pytest.raises(OptionsError, match="min_new_tokens 8 is above"):
        replace(DecodingOptions(min_new_tokens=8), max_new_tokens=4)


@pytest.mark.parametrize(
    ("kept", "given", "names"),
    [
        ({"num_beams": 4}, {"do_sample": True}, "num_beams"),
        ({"do_sample": True}, {"num_beams": 4}, "do_sample"),
        ({"min_new_tokens": 40}, {"max_new_tokens": 8}, "min_new_tokens"),
        ({"num_beams": 2, "top_k": 5}, {"num_return_sequences": 3}, "num_beams"),
        ({"num_beams": 4, "do_sample": True}, {}, "num_beams, do_sample"),
    ],
    ids=str,
)
def test_what_contradicts_the_checkpoint_s_settings_says_so(kept, given, names):
    """The caller has not given those, and cannot leave them out."""
    with pytest.raises(OptionsError) as caught:
        DecodingOptions.over(kept, given)
    end = f" ({names}: kept in the bundle from the checkpoint's settings; give another value)"
    assert str(caught.value).endswith(end)
    with pytest.raises(OptionsError) as caught:
        DecodingOptions.over({}, {**kept, **given})
    assert "kept in the bundle" not in str(caught.value)
