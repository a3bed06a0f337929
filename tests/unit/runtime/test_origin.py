"""What fills follow from: told apart where fills may differ, and only there."""

from dataclasses import replace

import pytest

from pointsman.bundle.generation import GenerationSettings
from pointsman.infill.origin import content_of, options_of


@pytest.mark.parametrize(
    "changes",
    [
        {"generation": GenerationSettings(source="generation_config.json", suppress_tokens=(5,))},
        {"extra_ids": 3},
        {"tokenizer": ()},
    ],
    ids=str,
)
def test_another_content(manifest, changes):
    (variant, *_) = manifest.variants
    assert content_of(manifest, variant) == content_of(replace(manifest), variant)
    assert content_of(replace(manifest, **changes), variant) != content_of(manifest, variant)


def test_an_option_that_is_given_its_default_is_as_one_that_is_not(manifest):
    assert options_of(manifest, {"num_beams": 1, "constrain": True}) == options_of(manifest, {})
    assert options_of(manifest, {})["max_new_tokens"] is None
    assert options_of(manifest, {"max_new_tokens": 9})["max_new_tokens"] == 9
    assert options_of(manifest, {"num_beams": 2}) != options_of(manifest, {})
