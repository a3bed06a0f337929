"""Whether written graphs compute what the checkpoint does."""
