"""How variants are measured: what a batch of each gives, what is counted of it, and what they generate."""
