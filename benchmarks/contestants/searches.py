"""Ways of searching that a contestant's tokens are compared in."""

from contestants.job import Options

# In float32, what tokens are compared on beside the timed cases: every part of the search, with a few tokens.
SEARCHES: tuple[Options, ...] = (
    {},
    {"min_new_tokens": 10, "repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 2},
    {"num_beams": 2, "length_penalty": 0.6},
    {"num_beams": 4, "early_stopping": True},
    {"num_beams": 4, "early_stopping": "never", "length_penalty": 2.0},
    {"num_beams": 4, "length_penalty": 0.0, "repetition_penalty": 0.8},
    {"num_beams": 4, "no_repeat_ngram_size": 2, "min_new_tokens": 6},
)
SEARCHED_TOKENS, SEARCHED_LENGTHS = 14, (5, 17)
