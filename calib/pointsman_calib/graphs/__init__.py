"""A bundle's graphs, run in pieces over text, and what is known of their products and weights."""
