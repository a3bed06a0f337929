"""Settings of generating: what is kept, what is refused, and what has no effect."""

from dataclasses import replace

import pytest

from checkpoints import CHECKPOINTS
from pointsman.bundle import GenerationSettings
from pointsman.errors import CheckpointError
from pointsman_export.architecture.generation import read_generation

ARCHITECTURE = CHECKPOINTS["tied"].architecture
CONFIG = CHECKPOINTS["tied"].config
FILE = "generation_config.json"


def read(generation=None, *, config=None, **options):
    return read_generation(CONFIG | (config or {}), generation, ARCHITECTURE, **{"max_tokens": 128} | options)


KEPT = {
    "the start": ({"decoder_start_token_id": 7}, {"decoder_start_token_id": 7}),
    "the start in a list": ({"decoder_start_token_id": [7]}, {"decoder_start_token_id": 7}),
    "what begins texts": ({"bos_token_id": 9}, {"decoder_start_token_id": 9}),
    "the start before what begins texts": (
        {"bos_token_id": 9, "decoder_start_token_id": 7},
        {"decoder_start_token_id": 7},
    ),
    "ends": ({"eos_token_id": [1, 5]}, {"eos_token_id": (1, 5)}),
    "another end": ({"eos_token_id": 5}, {"eos_token_id": (5,)}),
    "suppressed": ({"suppress_tokens": [3, 4]}, {"suppress_tokens": (3, 4)}),
    "suppressed first": ({"begin_suppress_tokens": [3]}, {"begin_suppress_tokens": (3,)}),
    "bad words": ({"bad_words_ids": [[3], [4, 5]]}, {"bad_words_ids": ((3,), (4, 5))}),
    "forced": (
        {"forced_bos_token_id": 3, "forced_eos_token_id": 1},
        {"forced_bos_token_id": 3, "forced_eos_token_id": (1,)},
    ),
    "lengths with the start": ({"max_length": 20, "min_length": 5}, {"max_new_tokens": 19, "min_new_tokens": 4}),
    "lengths without it go before": (
        {"max_length": 20, "min_length": 5, "max_new_tokens": 30, "min_new_tokens": 2},
        {"max_new_tokens": 30, "min_new_tokens": 2},
    ),
    "no least length": ({"min_length": 0}, {"min_new_tokens": 0}),
    "search": (
        {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 2, "early_stopping": "never"},
        {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 2.0, "early_stopping": "never"},
    ),
    "sampling": (
        {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 0.9},
        {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 0.9},
    ),
    "sampling for those who sample": ({"temperature": 0.7, "top_k": 5}, {"temperature": 0.7, "top_k": 5}),
    "penalties": (
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
    ),
}


@pytest.mark.parametrize(("said", "kept"), KEPT.values(), ids=KEPT.keys())
def test_what_is_kept(said, kept):
    assert read(said) == GenerationSettings(source=FILE, **kept)


@pytest.mark.parametrize(
    "said", [{"num_beams": 4}, {"eos_token_id": [1, 5]}, {"max_length": 9, "forced_eos_token_id": 1}]
)
def test_the_config_says_so_where_there_is_no_other_file(said):
    found = read(config=said)
    assert found == replace(read(said), source="config.json")
    assert read({"decoder_start_token_id": 0}, config={"num_beams": 4}) is None, "as transformers, which reads one file"


def test_ids_that_the_other_file_leaves_out_are_the_config_s():
    config = {"eos_token_id": [1, 5], "decoder_start_token_id": 7}
    assert read({"num_beams": 2}, config=config) == GenerationSettings(
        source=FILE, num_beams=2, eos_token_id=(1, 5), decoder_start_token_id=7
    )


@pytest.mark.parametrize(
    "said",
    [
        None,
        {},
        {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
        {"eos_token_id": [1], "num_beams": None, "bad_words_ids": [], "transformers_version": "5.23.0"},
        {"_from_model_config": True, "use_cache": True, "output_scores": True, "cache_implementation": "static"},
        {"typical_p": 1.0, "encoder_no_repeat_ngram_size": 0, "num_beam_groups": 1, "diversity_penalty": 0.0},
        {"renormalize_logits": False, "guidance_scale": None, "max_time": None, "pad_token_id": 3},
    ],
)
def test_what_changes_nothing(said):
    assert read(said) is None


REFUSED = {
    "typical_p": 0.9,
    "min_p": 0.05,
    "encoder_no_repeat_ngram_size": 3,
    "encoder_repetition_penalty": 1.5,
    "num_beam_groups": 2,
    "diversity_penalty": 0.5,
    "penalty_alpha": 0.6,
    "guidance_scale": 1.5,
    "exponential_decay_length_penalty": [5, 1.1],
    "sequence_bias": [[[3], 1.0]],
    "stop_strings": ["."],
    "max_time": 3.0,
    "renormalize_logits": True,
    "watermarking_config": {"bias": 2.5},
    "force_words_ids": [[3]],
    "forced_decoder_ids": [[1, 3]],
    "token_healing": True,
    "novelty": 1,
}


@pytest.mark.parametrize(("name", "value"), REFUSED.items())
def test_what_is_not_honoured_is_named(name, value):
    with pytest.raises(CheckpointError) as raised:
        read({name: value})
    assert str(raised.value) == (
        f"generation_config.json has settings of generating that Pointsman does not honour: {name} {value}; remove "
        "them, or leave all of generation_config.json's out with `ignore_generation_config=True`"
    )
    assert read({name: value}, ignore=True) is None


def test_the_config_is_refused_for_what_is_known_alone():
    """It has many other keys."""
    with pytest.raises(
        CheckpointError, match=r"^config\.json has settings .*: min_p 0\.1, typical_p 0\.9; remove them"
    ):
        read(config={"typical_p": 0.9, "min_p": 0.1, "novelty": 1})
    assert read(config={"novelty": 1}) is None


def test_ids_of_the_config_are_never_ignored():
    found = read({"num_beams": 4, "eos_token_id": 9}, config={"eos_token_id": [1, 5]}, ignore=True)
    assert found == GenerationSettings(source="config.json", eos_token_id=(1, 5))


IMPOSSIBLE = {
    "a number in words": ({"num_beams": "four"}, r"num_beams must be int, not 'four'"),
    "a truth for a number": ({"num_beams": True}, r"num_beams must be int, not True"),
    "several starts": ({"decoder_start_token_id": [7, 8]}, r"decoder_start_token_id must be int, not \[7, 8\]"),
    "an id too high": ({"suppress_tokens": [3, 128]}, r"there is no token 128; ids are from 0 to 127"),
    "an id too low": ({"forced_bos_token_id": -1}, r"there is no token -1; ids are from 0 to 127"),
    "an empty word": ({"bad_words_ids": [[3], []]}, r"bad_words_ids has an empty sequence"),
    "no beams": ({"num_beams": 0}, r"num_beams is 0; use a whole number of at least 1"),
    "sampling with beams": ({"do_sample": True, "num_beams": 4}, r"do_sample cannot be combined with num_beams 4"),
    "more sequences than beams": ({"num_return_sequences": 2}, r"num_return_sequences 2 is above num_beams 1"),
    "no room": ({"max_length": 1}, r"max_new_tokens is 0; use a whole number of at least 1"),
    "too much room": ({"max_length": 130}, r"max_new_tokens is 129, and `max_tokens` allows 128"),
    "a negative temperature": ({"do_sample": True, "temperature": -1.0}, r"temperature is -1\.0; use a number from"),
}


@pytest.mark.parametrize(("said", "sentence"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_what_cannot_be_is_named(said, sentence):
    sentence = rf"^generation_config\.json has settings of generating that cannot be: {sentence}.*; mend it, or leave "
    with pytest.raises(CheckpointError, match=sentence) as raised:
        read(said)
    assert "\n" not in str(raised.value)
